-- wait: let the session sleep until no earlier call can land any more. Its messages were asked for,
-- and not found; they are asked for once more then.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 token  3 first number that an earlier call may have carried  4 last
--       5 ms until which that call may land
-- Returns 1, or 0 when the token no longer holds the lease.
--
-- It is no attempt, and nothing was wrong: the claim ends here, as at the gate, and its
-- acknowledgement finds it over.

local token, intent, is_paused = unpack(redis.call('HMGET', SESSION, 'token', 'intent', 'paused'))
if token ~= ARGV[2] then return 0 end
allow_full_memory()
intent = record_intent(intent, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), 1)
local _, _, lands = parts_of(intent)
let_go(ARGV[1], 'an earlier call may still land', now_ms())
paused = is_paused
sleep_until(ARGV[1], lands)
count('awaited')
return 1
