-- begin: record, before a call that writes, that it is about to be made; renew the lease.
--
-- KEYS  the twelve session keys (common.lua)
-- ARGV  1 session  2 token  3 lease, ms  4 ms after its start in which the call may land
--       5 first number of the call  6 last
-- Returns 1, or 0 when the token no longer holds the lease: then nothing may be sent.

local token, intent = unpack(redis.call('HMGET', SESSION, 'token', 'intent'))
if token ~= ARGV[2] then return 0 end
allow_full_memory()
local now = now_ms()
record_intent(intent, tonumber(ARGV[5]), tonumber(ARGV[6]), now + tonumber(ARGV[4]))
redis.call('ZADD', LEASES, ms(now + tonumber(ARGV[3])), ARGV[1])
return 1
