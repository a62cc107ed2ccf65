-- pause: let no worker take a session until it is resumed. It goes on accepting messages.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session
-- Returns its state now: paused; leased or held: it is paused when that is over.
--
-- A session that nobody has heard of is paused as well, and one without work stays so for ever: whoever
-- paused it does not expect it to go on after a day.

local name, now = ARGV[1], now_ms()
local state, since = unpack(redis.call('HMGET', SESSION, 'state', 'paused'))
if since then return state end
allow_full_memory()
redis.call('HSET', SESSION, 'paused', ms(now))
redis.call('ZADD', PAUSED, ms(now), name)
if state == 'leased' or state == 'held' then return state end
if not state then
  redis.call('PERSIST', SESSION)
  redis.call('HSET', SESSION, 'epoch', redis.call('HGET', META, 'epoch') or '0')
end
local wake = redis.call('ZSCORE', SLEEPING, name)
redis.call('ZREM', READY, name)   -- its entry on the run queue is no longer true: a claim gets nothing
redis.call('ZREM', SLEEPING, name)
return park(tonumber(wake))
