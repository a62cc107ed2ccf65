-- begin: record, before a call that writes, that it is about to be made; renew the lease.
--
-- KEYS  the twelve session keys (common.lua)
-- ARGV  1 session  2 token  3 lease, ms  4 first number of the call  5 last  6 its duration, ms
-- Returns 1, or 0 when the token no longer holds the lease: then nothing may be sent.

local token, intent = unpack(redis.call('HMGET', SESSION, 'token', 'intent'))
if token ~= ARGV[2] then return 0 end
allow_full_memory()
local now = now_ms()
record_intent(intent, tonumber(ARGV[4]), tonumber(ARGV[5]), now, now + tonumber(ARGV[6]))
redis.call('ZADD', LEASES, ms(now + tonumber(ARGV[3])), ARGV[1])
return 1
