-- begin: record, before a call that writes, that it is about to be made; renew the lease.
--
-- KEYS  the twelve session keys (common.lua)
-- ARGV  1 session  2 token  3 lease, ms  4 first number of the call  5 last  6 its duration, ms
-- Returns 1, or 0 when the token no longer holds the lease: then nothing may be sent.
--
-- The intent "first last started latest-end" outlives lease and worker; commit takes it away. A call
-- that is still in doubt stays in it: a retry takes the head alone, and forgetting that the call
-- before had carried its followers too would write them a second time.

local token, intent = unpack(redis.call('HMGET', SESSION, 'token', 'intent'))
if token ~= ARGV[2] then return 0 end
allow_full_memory()
local now = now_ms()
local first, last, ends = tonumber(ARGV[4]), tonumber(ARGV[5]), now + tonumber(ARGV[6])
local earlier_first, earlier_last, earlier_ends =
  string.match(intent or '', '^(%d+) (%d+) %d+ (%d+)')
if earlier_first then
  first = math.min(first, tonumber(earlier_first))
  last = math.max(last, tonumber(earlier_last))
  ends = math.max(ends, tonumber(earlier_ends))
end
redis.call('HSET', SESSION, 'intent',
  table.concat({ms(first), ms(last), ms(now), ms(ends)}, ' '))
redis.call('ZADD', LEASES, ms(now + tonumber(ARGV[3])), ARGV[1])
return 1
