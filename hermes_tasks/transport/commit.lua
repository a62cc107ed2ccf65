-- commit: take settled messages out of the in-flight list; they are written, or dead letters.
--
-- KEYS  the twelve session keys (common.lua)
-- ARGV  1 session  2 token  3 reason ('' for written)  4 detail  5… ids
-- Returns the number settled now (ids settled before count nothing); with a reason instead the
-- trace of the head, if that is given up, or ''. In both cases -1 when the token no longer holds
-- the lease: whoever holds it asks what was written.

local token, intent, tries, lines =
  unpack(redis.call('HMGET', SESSION, 'token', 'intent', 'tries', 'trace'))
if token ~= ARGV[2] then return -1 end
allow_full_memory()
local done = {}
for i = 5, #ARGV do done[ARGV[i]] = true end
local reason, written, settled, prefix, keep = ARGV[3], {}, 0, true, {}
local head_settled = false
for _, text in ipairs(redis.call('LRANGE', INFLIGHT, 0, -1)) do
  local item = parse(text)
  if done[item.id] then
    settled = settled + 1
    local is_head = settled == 1 and #keep == 0
    head_settled = head_settled or is_head
    if reason == '' then
      written[#written + 1] = item.id
    else
      bury(ARGV[1], item, reason, ARGV[4], is_head and lines)
    end
    prefix = prefix and #keep == 0
  else
    keep[#keep + 1] = text
  end
end
if settled == 0 then return reason == '' and 0 or '' end
if prefix then
  redis.call('LTRIM', INFLIGHT, settled, -1)
else
  redis.call('DEL', INFLIGHT)
  redis.call('RPUSH', INFLIGHT, unpack(keep))
end
if reason == '' then
  forget(written)
  count('written', settled)
end
redis.call('HINCRBY', SESSION, 'progress', settled)
resolve_intent(intent, keep[1] and parse(keep[1]))
if head_settled and (tries or lines) then redis.call('HDEL', SESSION, 'tries', 'trace') end
if reason == '' then return settled end
return head_settled and lines or ''
