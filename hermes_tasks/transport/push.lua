-- push: append a message to its session, or put the head's retry in its place.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 message  3 id  4 size  5 kind  6 delay, ms (0: none)
--       7 token of the claim this retry comes from, or ''  8 waiting's bound  9 backlog's bound
--       10 sender, or '-'  11 its number  12 the number it sent before for this session, or ''
-- Returns {answer, number, id of each message given up…}, answer one of
--   accepted   appended; the session is queued if it was idle
--   duplicate  this id is queued, or is the last one its sender had accepted, or a sender's that
--              was given up: nothing changed
--   gap        the sender's previous message never arrived here: nothing changed
--   retried    the head was replaced in place; its delay is the session's wake time
--   stale      a retry whose claim is over: dropped, the message itself is where it was

local name, message, id, size, kind = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local delay, token = tonumber(ARGV[6]), ARGV[7]
local sender, sent, previous = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12])
local now = now_ms()

local function item(number, since, delayed)
  return table.concat({ms(number), id, size, kind, ms(since) .. (delayed and '+' or ''), message}, ' ')
end

-- What cannot be read again would stop its session for ever.
assert(parse(item(0, 0)).number, 'id, size or kind of a message cannot be stored')

if token ~= '' then
  allow_full_memory()
  if redis.call('HGET', SESSION, 'token') ~= token then
    count('stale')
    return {'stale', 0}
  end
  local head = redis.call('LINDEX', INFLIGHT, 0)
  head = head and parse(head)
  if head and head.id == id then
    redis.call('LSET', INFLIGHT, 0, item(head.number, head.since))
    trace(string.format('retried, in %.1f s', delay / 1000), now)
  end
  redis.call('HSET', SESSION, 'wake', ms(now + delay), 'most', 1)
  count('retried')
  return {'retried', head and head.number or 0}
end

if redis.call('SISMEMBER', IDS, id) == 1 then
  count('duplicate')
  return {'duplicate', 0}
end

-- A gateway sends again what Redis may have forgotten. A dead letter of it comes back by being
-- retried, and to its place; pushed, it would come behind what was accepted after it.
local latest, given_up, state, watched, settled =
  unpack(redis.call('HMGET', SESSION, 'senders', 'given_up', 'state', 'watched', 'settled'))
if sender ~= '-' and given_up and string.find(' ' .. given_up .. ' ', ' ' .. id .. ' ', 1, true) then
  count('duplicate')
  return {'duplicate', 0}
end

-- The last message accepted from each of the four latest senders: "sender number id" each.
local senders = {table.concat({sender, ms(sent), id}, ' ')}
for other, number, last in
    string.gmatch(latest or '', '(%S+) (%d+) (%S+)') do
  if last == id then
    count('duplicate')
    return {'duplicate', 0}
  end
  if other == sender then
    if tonumber(number) > sent then   -- sent again, and late: the place it had reached stays
      senders[1] = table.concat({sender, number, id}, ' ')
    end
    if previous and tonumber(number) < previous then
      count('gap')
      return {'gap', 0}
    end
  elseif #senders < 4 then
    senders[#senders + 1] = table.concat({other, number, last}, ' ')
  end
end

local number = redis.call('HINCRBY', SESSION, 'accepted', 1)   -- refused if memory is full
if not state then
  redis.call('PERSIST', SESSION)
  redis.call('HSET', SESSION, 'senders', table.concat(senders, ' '),
    'epoch', redis.call('HGET', META, 'epoch') or '0')
else
  redis.call('HSET', SESSION, 'senders', table.concat(senders, ' '))
end
redis.call('SADD', IDS, id)
local answer = {'accepted', number}
if redis.call('RPUSH', WAITING, item(number, now + delay, delay > 0)) > tonumber(ARGV[8]) then
  local over = redis.call('LPOP', WAITING)
  if redis.call('RPUSH', BACKLOG, over) <= tonumber(ARGV[9]) then
    count('backlog')
  else
    local lost = parse(redis.call('LPOP', BACKLOG))
    bury(name, lost, 'overflow')
    answer[#answer + 1] = lost.id
    refresh_lag(name)
    announce(watched)
  end
end
count('accepted')
local due = now + delay
if not state then
  move_on(name, now, {since = due, not_before = delay > 0 and due or 0})
elseif number - tonumber(settled or '0') == 1 then   -- all before it is settled, or purged
  set_lag(name, {since = due})
end
return answer
