-- open: stop all calls by hand, as for a planned maintenance. None is made, not even a probe, until its
-- time is over, and then a probe is due; or until close. Calls under way go on.
--
-- KEYS  the eleven of the gate (gate.lua)
-- ARGV  1 for how long, ms (0: until close)  2 why, for people  3 a random number in [0, 1)
--       4 the gate's name  5 the policy
-- Returns what that has done to the breaker: 'opened', or '' if it was not closed.

roll(tonumber(ARGV[3]))
local news = state == 'closed' and 'opened' or ''
enter('open')
probe_at, probe_wait = now, PROBE_MS
redis.call('HSET', GATE, 'probe_at', exact(now), 'probe_wait', exact(probe_wait))
redis.call('HDEL', GATE, 'denied')
shut_for, shut_why = tonumber(ARGV[1]), ARGV[2]
shut_until = shut_for > 0 and now + shut_for or 0
keep_shut()
redis.call('ZADD', GATES, 'NX', 0, ARGV[4])
return news
