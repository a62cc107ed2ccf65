-- resume: take a released session out of the queue and put it on the run queue.
--
-- KEYS  the session keys (common.lua), the eleven of the gate (gate.lua)
-- ARGV  1 session  2 1: it is the probe, and takes one message  3 the gate's name  4 the policy
-- Returns 1, or 0 when the session is not held: somebody else has resumed it.
--
-- The permit is not asked for: a session that comes without one, because this is late, is held
-- again. Left in the queue with nobody to resume it, it would be lost.

allow_full_memory()
local held = redis.call('LREM', HELD, 1, ARGV[1]) == 1
if redis.call('EXISTS', HELD) == 0 then redis.call('ZADD', GATES, 0, ARGV[3]) end
if not held or redis.call('HGET', SESSION, 'state') ~= 'held' then return 0 end
if ARGV[2] == '1' then redis.call('HSET', SESSION, 'most', 1) end
make_ready(ARGV[1])
return 1
