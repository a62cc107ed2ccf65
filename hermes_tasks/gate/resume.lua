-- resume: take a released session out of the queue and put it on the run queue.
--
-- KEYS  the session keys (common.lua), the eleven of the gate (gate.lua)
-- ARGV  1 session  2 1: it is the probe, and takes one message  3 the gate's name  4 the policy
-- Returns 1, or 0 when the session is not held: somebody else has resumed it.
--
-- A session that is paused, or whose messages were dropped, leaves the queue and does not come for its
-- call: it gives the permit back.
--
-- The permit is not asked for: a session that comes without one, because this is late, is held
-- again. Left in the queue with nobody to resume it, it would be lost.

allow_full_memory()
local held = redis.call('LREM', HELD, 1, ARGV[1]) == 1
if redis.call('EXISTS', HELD) == 0 then redis.call('ZADD', GATES, 0, ARGV[3]) end
local became = held and go_on(ARGV[1], now)
if not became then return 0 end
if became == 'ready' then
  if ARGV[2] == '1' then redis.call('HSET', SESSION, 'most', 1) end
else
  redis.call('ZREM', PERMITS, ARGV[1])
  if state == 'probing' and probe_session == ARGV[1] and not probe_call then pass_on() end
end
return 1
