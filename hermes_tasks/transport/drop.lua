-- drop: give up what is queued in a session, as dead letters. What a worker has at this moment is not
-- touched.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 a line for the letters about why
-- Returns {messages that a worker has, id of each message given up…}
--
-- A letter keeps until when a call that carried its message may land, so that one that is retried
-- is asked about. One that is not is written nevertheless if such a call lands.

local name, now = ARGV[1], now_ms()
local state, lines, watched, is_paused =
  unpack(redis.call('HMGET', SESSION, 'state', 'trace', 'watched', 'paused'))
local is_leased = state == 'leased'
allow_full_memory()

local overflowed = redis.call('LLEN', BACKLOG)
local dropped, answer = 0, {is_leased and redis.call('LLEN', INFLIGHT) or 0}
for _, list in ipairs(is_leased and {BACKLOG, WAITING} or {INFLIGHT, BACKLOG, WAITING}) do
  for _, text in ipairs(redis.call('LRANGE', list, 0, -1)) do
    local item = parse(text)
    if not item.number then item = {id = '-', number = 0, text = '0 - 1 - 0 ' .. text} end
    bury(name, item, 'dropped', ARGV[2], not is_leased and dropped == 0 and lines)
    dropped = dropped + 1
    answer[#answer + 1] = item.id
  end
  redis.call('DEL', list)
end
if dropped == 0 then return answer end
if overflowed > 0 then count('backlog', -overflowed) end

if state == 'held' then   -- it stays where it is held, and goes idle when it is let go on
  redis.call('HDEL', SESSION, 'intent', 'attempts', 'most', 'tries', 'trace')
elseif not is_leased then
  redis.call('ZREM', READY, name)
  redis.call('ZREM', SLEEPING, name)
  redis.call('HDEL', SESSION, 'due')
  paused = is_paused
  move_on(name, now)
end
if not is_leased then refresh_lag(name) end
announce(watched)
return answer
