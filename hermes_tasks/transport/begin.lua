-- begin: record, before a call that writes, that it is about to be made; renew the lease.
--
-- KEYS  the twelve session keys (common.lua)
-- ARGV  1 session  2 token  3 lease, ms  4 first number of the call  5 last  6 its duration, ms
-- Returns 1, or 0 when the token no longer holds the lease: then nothing may be sent.
--
-- The intent "first last started latest-end" outlives lease and worker; commit takes it away.

if redis.call('HGET', SESSION, 'token') ~= ARGV[2] then return 0 end
local now = now_ms()
redis.call('HSET', SESSION, 'intent',
  table.concat({ARGV[4], ARGV[5], ms(now), ms(now + tonumber(ARGV[6]))}, ' '))
redis.call('ZADD', LEASES, ms(now + tonumber(ARGV[3])), ARGV[1])
return 1
