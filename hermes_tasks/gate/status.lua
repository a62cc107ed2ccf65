-- status: the gate as it is at one instant. Changes nothing.
--
-- KEYS  the eleven of the gate (gate.lua)
-- ARGV  1 the policy
-- Returns {now in ms, calls in flight, permits, held sessions, the hash: field, value, …}

return {exact(now), redis.call('ZCOUNT', CALLS, '(' .. exact(now), '+inf'),
  redis.call('ZCOUNT', PERMITS, '(' .. exact(now), '+inf'), redis.call('LLEN', HELD),
  redis.call('HGETALL', GATE)}
