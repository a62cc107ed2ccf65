-- mend: put a gate right. Its sessions are repaired one by one (repair.lua).
--
-- KEYS  the eleven of the gate (gate.lua)
-- ARGV  1 the gate's name  2 the policy

if state ~= 'closed' and state ~= 'open' and state ~= 'probing' then enter('closed') end
if shut and (state ~= 'open' or not shut_until) then redis.call('HDEL', GATE, 'shut') end
redis.call('ZREMRANGEBYSCORE', PERMITS, '(' .. exact(horizon), '+inf')
redis.call('ZREMRANGEBYSCORE', CALLS, '(' .. exact(calls_horizon), '+inf')
redis.call('ZADD', GATES, redis.call('EXISTS', HELD), ARGV[1])
return 1
