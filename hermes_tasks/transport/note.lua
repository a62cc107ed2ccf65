-- note: add a line to what the session's head went through.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 token  3 the line
-- Returns 1, or 0 when the token no longer holds the lease.

if redis.call('HGET', SESSION, 'token') ~= ARGV[2] then return 0 end
allow_full_memory()
redis.call('HSET', SESSION, 'noted', 1)
trace(ARGV[3], now_ms())
return 1
