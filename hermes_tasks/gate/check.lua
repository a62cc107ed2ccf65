-- check: what a gate holds, as far as it can be wrong. Changes nothing.
--
-- KEYS  the eleven of the gate (gate.lua)
-- ARGV  1 the gate's name  2 the policy
-- Returns {its state, 1 if a worker's timer looks at it, calls and permits that end later than any
--   that is granted here, {held session…}, 1 if it is in a maintenance that does not belong to its state}

local function later(set, than) return redis.call('ZCOUNT', set, '(' .. exact(than), '+inf') end

return {state, redis.call('ZSCORE', GATES, ARGV[1]) == '1' and 1 or 0,
  later(CALLS, calls_horizon) + later(PERMITS, horizon), redis.call('LRANGE', HELD, 0, -1),
  shut and (state ~= 'open' or not shut_until) and 1 or 0}
