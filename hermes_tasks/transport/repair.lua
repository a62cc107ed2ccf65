-- repair: put one session right, whatever is wrong with it, without losing or reordering a message.
--
-- KEYS  the session keys (common.lua), then every list in which held sessions stand
-- ARGV  1 session  2 waiting's bound  3 ms after its start in which a call may land
-- Returns {state, messages queued, entries that nobody can read: dead letters now}; state is 'leased'
--   when a worker has the session: then nothing was touched.
--
-- Messages are put in the order of their numbers, in which they were accepted. A call for any of them
-- may be under way: nobody knows what was when the session came apart. So all are in doubt. It stays
-- held if it stands in a list of those held, asleep if it has a time to wake, and is ready if
-- it has messages and neither. Whatever says that it is paused is believed: somebody has asked for it.

local name, bound, now = ARGV[1], tonumber(ARGV[2]), now_ms()
local state, token, accepted, written, intent, watched, since, due = unpack(redis.call('HMGET',
  SESSION, 'state', 'token', 'accepted', 'written', 'intent', 'watched', 'paused', 'due'))
local expiry = redis.call('ZSCORE', LEASES, name)
if token and expiry and tonumber(expiry) > now then return {'leased', 0, 0} end
allow_full_memory()

-- Everything that is queued, once.
local items, unreadable, was_head = {}, {}, redis.call('LINDEX', INFLIGHT, 0)
for _, list in ipairs({INFLIGHT, BACKLOG, WAITING}) do
  for _, text in ipairs(redis.call('LRANGE', list, 0, -1)) do
    local item = parse(text)
    if item.number then
      item.place, item.taken = #items, list == INFLIGHT
      items[#items + 1] = item
    else
      unreadable[#unreadable + 1] = text
    end
  end
end
table.sort(items, function(a, b)
  return a.number < b.number or a.number == b.number and a.place < b.place
end)
local queue, known, last, in_flight = {}, {}, 0, 0
for _, item in ipairs(items) do
  if not known[item.id] then
    known[item.id] = true
    if item.number <= last then
      item.text = ms(last + 1) .. string.match(item.text, '^%d+( .*)$')
      last = last + 1
    else
      last = item.number
    end
    queue[#queue + 1] = item
    if item.taken then in_flight = #queue end
  end
end

-- What follows the last one in flight waits, and what is too much for waiting is in the backlog.
local overflowed = redis.call('LLEN', BACKLOG)
redis.call('DEL', INFLIGHT, BACKLOG, WAITING, IDS)
for i, item in ipairs(queue) do
  local list = i <= in_flight and INFLIGHT or i <= #queue - bound and BACKLOG or WAITING
  redis.call('RPUSH', list, item.text)
  redis.call('SADD', IDS, item.id)
end
overflowed = redis.call('LLEN', BACKLOG) - overflowed
if overflowed ~= 0 then count('backlog', overflowed) end

for _, field in ipairs({'since', 'written', 'attempts', 'most', 'tries'}) do
  local value = redis.call('HGET', SESSION, field)
  if value and not string.match(value, '^%d+$') then redis.call('HDEL', SESSION, field) end
end
for _, text in ipairs(unreadable) do
  bury(name, {id = '-', number = 0, text = '0 - 1 - 0 ' .. text}, 'unreadable')
end

redis.call('HDEL', SESSION, 'token', 'worker', 'progress', 'wake', 'noted', 'admitted')
if in_flight == 0 or queue[1].text ~= was_head then
  redis.call('HDEL', SESSION, 'attempts', 'most', 'tries', 'trace')
end
if intent and not string.match(intent, '^%d+ %d+ %d+ %d+$') then intent = false end
if #queue > 0 or redis.call('EXISTS', SESSION) == 1 then
  accepted = math.max(tonumber(accepted or '') or 0, tonumber(written or '') or 0, last)
  redis.call('HSET', SESSION, 'accepted', ms(accepted), 'settled', ms(accepted - #queue))
end
if #queue > 0 then
  record_intent(intent, queue[1].number, last, now + tonumber(ARGV[3]))
else
  redis.call('HDEL', SESSION, 'intent')
end

if not string.match(since or '', '^%d+$') then since = redis.call('ZSCORE', PAUSED, name) end
redis.call('HDEL', SESSION, 'due')
if since then
  redis.call('HSET', SESSION, 'paused', ms(tonumber(since)))
  redis.call('ZADD', PAUSED, since, name)
  redis.call('PERSIST', SESSION)
  paused = true
else
  redis.call('HDEL', SESSION, 'paused')
end

-- The one state that follows.
local asleep = redis.call('ZSCORE', SLEEPING, name)
if state == 'paused' and string.match(due or '', '^%d+$') then state, asleep = 'sleeping', due end
redis.call('ZREM', READY, name)
redis.call('ZREM', LEASES, name)
redis.call('ZREM', SLEEPING, name)
local held = false
for i = SESSION_KEYS + 1, #KEYS do
  local places = #redis.call('LPOS', KEYS[i], name, 'COUNT', 0)
  if state == 'held' and #queue > 0 and places > 0 and not held then
    held = true
    if places > 1 then redis.call('LREM', KEYS[i], 1 - places, name) end
  elseif places > 0 then
    redis.call('LREM', KEYS[i], 0, name)
  end
end
if #queue > 0 then redis.call('PERSIST', SESSION) end
if not held then
  if state == 'sleeping' and asleep and #queue > 0 then
    state = sleep_until(name, tonumber(asleep))
  else
    state = in_flight > 0 and make_ready(name) or move_on(name, now)
  end
end
refresh_lag(name)
announce(watched)
return {state, #queue, #unreadable}
