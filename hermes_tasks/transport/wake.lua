-- wake: queue a sleeping session whose time has come.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session
-- Returns 1, or 0 when it does not sleep or not long enough.

local time = redis.call('ZSCORE', SLEEPING, ARGV[1])
if not time or tonumber(time) > now_ms() then return 0 end
redis.call('ZREM', SLEEPING, ARGV[1])
if redis.call('HGET', SESSION, 'state') ~= 'sleeping' then return 0 end
make_ready(ARGV[1])
return 1
