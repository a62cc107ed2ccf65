-- reset: forget what was learned of the backend, and what is in force for it: latencies, ramp, pace,
-- pause and breaker. What it counted, sessions held and calls in flight stay.
--
-- KEYS  the eleven of the gate (gate.lua)
-- ARGV  1 a random number in [0, 1)  2 the policy
-- Returns {what that has done to the breaker: 'closed', or '' if it was, 1 for a probe, sessions to
--   resume…}

roll(tonumber(ARGV[1]))
local news = state ~= 'closed' and 'closed' or ''
enter('closed')
limit, cut_at, tat, pause_until = nil, 0, 0, 0
redis.call('HDEL', GATE, 'failed_by', 'well_by', 'well_at', 'limit', 'cut_at', 'trouble', 'slow:0',
  'tat', 'pause_until', 'pause_why')
for _, class in ipairs(CLASSES) do
  redis.call('DEL', SAMPLES_BY_TIME[class], SAMPLES_BY_DURATION[class])
  redis.call('HDEL', GATE, 'slow:' .. class, 'n:' .. class, 'p95:' .. class, 'sampled_at:' .. class,
    'raised:' .. class)
end
local probe, sessions = release()
return {news, probe, unpack(sessions)}
