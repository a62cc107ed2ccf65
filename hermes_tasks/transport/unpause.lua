-- unpause: let a paused session go on, from where it was.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session
-- Returns {its state now, 1 if it was paused}

local name, now = ARGV[1], now_ms()
local state, since, due = unpack(redis.call('HMGET', SESSION, 'state', 'paused', 'due'))
if not since then return {state or 'idle', 0} end
allow_full_memory()
redis.call('ZREM', PAUSED, name)
redis.call('HDEL', SESSION, 'paused', 'due')
if state == 'paused' then
  if not head_of(INFLIGHT) then
    state = move_on(name, now)
  elseif due and tonumber(due) > now then
    state = sleep_until(name, tonumber(due))
  else
    state = make_ready(name)
  end
end
return {state, 1}
