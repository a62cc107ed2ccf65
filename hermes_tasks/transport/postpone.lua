-- postpone: let the head be tried again later. The claim goes on until it is completed, and the
-- session sleeps then.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 token  3 wait, ms  4 most messages of the next batch  5 a line for the trace
--       6 0: the call that failed was answered, and did not write; 1: it may still land
-- Returns 1, or 0 when the token no longer holds the lease.
--
-- Asked for twice under one token, as by a client that repeats the call, it counts once.

local token, wake, intent = unpack(redis.call('HMGET', SESSION, 'token', 'wake', 'intent'))
if token ~= ARGV[2] then return 0 end
allow_full_memory()
local now = now_ms()
redis.call('HSET', SESSION, 'wake', ms(now + tonumber(ARGV[3])), 'most', ARGV[4])
if intent and ARGV[6] == '0' then answer_intent(intent) end
if not wake then
  redis.call('HINCRBY', SESSION, 'tries', 1)
  if ARGV[5] ~= '' then trace(ARGV[5], now) end
  count('postponed')
end
return 1
