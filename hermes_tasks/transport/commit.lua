-- commit: take settled messages out of the in-flight list; they are written, or dead letters.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 token  3 how  4 detail
--       5 0: the latest call was answered, and did not write them; 1: it may still  6… ids
-- how they are settled is one of
--   written  by a call just now; detail: the highest number that was in doubt before it (0: none)
--   found    they were written before
--   twice    as found, and a part of them more than once: a call has landed later than was waited
--   reason   of a dead letter, any other word; detail: a line about it
-- Returns the number settled now (ids settled before count nothing); with a reason instead the
-- trace of the head, if that is given up, or ''. In both cases -1 when the token no longer holds
-- the lease: whoever holds it asks what was written.

local how = ARGV[3]
local token, intent, tries, lines, highest, rewritten, watched, gone = unpack(redis.call('HMGET',
  SESSION, 'token', 'intent', 'tries', 'trace', 'written', 'rewritten', 'watched', 'settled'))
if token ~= ARGV[2] then return -1 end
local is_written = how == 'written' or how == 'found' or how == 'twice'
local doubtful = how == 'written' and tonumber(ARGV[4]) or 0
-- Else the first write takes a message out of its list, which needs no memory.
if how ~= 'written' or doubtful > 0 then allow_full_memory() end
local done = {}
for i = 6, #ARGV do done[ARGV[i]] = true end
if intent and not is_written and ARGV[5] == '0' then answer_intent(intent) end

-- What was written while in doubt is remembered until it is found twice, or newer takes its place.
local remembered, changed = {}, false
for id in string.gmatch(rewritten or '', '%S+') do
  if how == 'twice' and done[id] then
    count('twice')
    changed = true
  else
    remembered[#remembered + 1] = id
  end
end

local written, sinces, settled, prefix, keep, next_number = {}, {}, 0, true, {}, 0
local head_settled, head = false, nil
highest = tonumber(highest or '0')
for _, text in ipairs(redis.call('LRANGE', INFLIGHT, 0, -1)) do
  local item = parse(text)
  if done[item.id] then
    settled = settled + 1
    local is_head = settled == 1 and #keep == 0
    head_settled = head_settled or is_head
    if is_written then
      written[#written + 1] = item.id
      sinces[#sinces + 1] = item.since
      highest = math.max(highest, item.number)
      if how == 'twice' then count('twice') end
      if item.number <= doubtful then
        remembered[#remembered + 1] = item.id
        changed = true
      end
    else
      bury(ARGV[1], item, how, ARGV[4], is_head and lines)
    end
    prefix = prefix and #keep == 0
    if #keep == 0 then next_number = item.number + 1 end
  else
    if #keep == 0 then head, next_number = item, item.number end
    keep[#keep + 1] = text
  end
end
if changed then
  local from = math.max(1, #remembered - REWRITTEN + 1)
  redis.call('HSET', SESSION, 'rewritten', table.concat(remembered, ' ', from))
  if #remembered == 0 then redis.call('HDEL', SESSION, 'rewritten') end
end
if settled == 0 then return is_written and 0 or '' end
if prefix then
  redis.call('LTRIM', INFLIGHT, settled, -1)
else
  redis.call('DEL', INFLIGHT)
  redis.call('RPUSH', INFLIGHT, unpack(keep))
end
intent = resolve_intent(intent, next_number)
if not is_written then
  redis.call('HSET', SESSION, 'progress', settled)
else
  redis.call('SREM', IDS, unpack(written))
  redis.call('HSET', SESSION, 'progress', settled, 'written', ms(highest),
    'settled', ms(tonumber(gone or '0') + settled))
  count_written(sinces, now_ms())
  if how == 'found' then count('found', settled) end
  if intent and how == 'written' then answer_intent(intent) end
end
announce(watched)
if head_settled and head then set_lag(ARGV[1], head) end
if head_settled and (tries or lines) then redis.call('HDEL', SESSION, 'tries', 'trace') end
if is_written then return settled end
return head_settled and lines or ''
