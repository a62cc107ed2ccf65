-- release: the timer's look at the queue of held sessions.
--
-- KEYS  the eleven of the gate (gate.lua)
-- ARGV  1 a random number in [0, 1)  2 the policy
-- Returns {state, 1 for a probe, sessions to resume…}

roll(tonumber(ARGV[1]))
-- What was set before the clock stepped back keeps others out only where sessions are held, and
-- there the timer comes: no call need pay for this.
redis.call('ZREMRANGEBYSCORE', PERMITS, '(' .. exact(horizon), '+inf')
redis.call('ZREMRANGEBYSCORE', CALLS, '(' .. exact(calls_horizon), '+inf')
local probe, sessions = release()
return {state, probe, unpack(sessions)}
