-- begin: renew the lease before a call, and record of one that writes that it is about to be made.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 token  3 lease, ms  4 ms after its start in which the call may land
--       5 first number of the call  6 last (0 0: it writes nothing)
-- Returns 1, or 0 when the token no longer holds the lease: then nothing may be sent.

local token, intent = unpack(redis.call('HMGET', SESSION, 'token', 'intent'))
if token ~= ARGV[2] then return 0 end
allow_full_memory()
local now, first, last = now_ms(), tonumber(ARGV[5]), tonumber(ARGV[6])
if last > 0 then record_intent(intent, first, last, now + tonumber(ARGV[4])) end
redis.call('ZADD', LEASES, ms(now + tonumber(ARGV[3])), ARGV[1])
return 1
