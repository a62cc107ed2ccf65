-- admit: ask for one call to the backend, as the last step before its first byte. Either the call
-- may start, its intent is recorded and the lease renewed; or the session is held: it joins the
-- tail of the gate's queue and gives up lease and slot.
--
-- KEYS  the session keys (common.lua), the eleven of the gate (gate.lua)
-- ARGV  1 session  2 token  3 lease, ms  4 first number of the call  5 last (0 0: it writes nothing)
--       6 call id  7 its messages (0: it writes nothing)  8 a random number in [0, 1)
--       9 calls made meanwhile without asking  10 the gate's name
--       11 ms after its start in which the call may land  12 the policy
-- Returns one of
--   {'lost'}        the token does not hold the lease: nothing may be sent
--   {'go', deadline in ms, delay in ms, epoch, size class, 1 for the probe}
--   {'held', why}   open, maintenance, probing, pause, queue, limit or pace
-- deadline and delay are strings, because a number in an answer loses its fraction.
--
-- A session that was let go under this token (a followup: the question came first, the write comes
-- now) need not queue again: keeping it in its slot costs nobody a call. So a followup is the one
-- call that may go beyond the ramp's limit; breaker and pause hold it like any other.
--
-- The answer may be lost, and the call repeated: with the same call id, it is then a followup of
-- itself, counted once in calls.

local name, token, call, size = ARGV[1], ARGV[2], ARGV[6], tonumber(ARGV[7])
local first, last, jitter = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[8])

local holder, admitted, intent = unpack(redis.call('HMGET', SESSION, 'token', 'admitted', 'intent'))
if holder ~= token then return {'lost'} end
roll(jitter)
local bypassed = tonumber(ARGV[9])
if bypassed > 0 then tally('bypassed', bypassed) end

local class = 0
if size > 0 then class = size <= 4 and 4 or size <= 20 and 20 or 100 end

-- clamp(headroom * p95, floor, ceiling). A call that writes nothing has no samples, and a class has
-- too few or only old ones: the ceiling.
local function deadline()
  if class == 0 then return CEILING end
  local n, p95, sampled_at, raised = unpack(redis.call('HMGET', GATE,
    'n:' .. class, 'p95:' .. class, 'sampled_at:' .. class, 'raised:' .. class))
  if raised or tonumber(n or '0') < WARMUP or tonumber(sampled_at) <= now - WINDOW_MS then
    return CEILING
  end
  return math.min(math.max(HEADROOM * tonumber(p95), FLOOR), CEILING)
end

-- What keeps a session from calling while the breaker is closed, or nil.
local function obstacle(through)
  if pause_until > now then return 'pause' end
  if through then return nil end
  if redis.call('EXISTS', HELD) == 1 then return 'queue' end
  if limit and redis.call('ZCARD', CALLS) + redis.call('ZCARD', PERMITS) >= math.floor(limit) then
    return 'limit'
  end
  return pace_wait() > 0 and 'pace' or nil
end

local through = redis.call('ZREM', PERMITS, name) == 1 or admitted == token
local why
if state == 'open' then
  if probe_due() and redis.call('EXISTS', HELD) == 0 then
    start_probe(name)
  else
    why = is_shut() and 'maintenance' or 'open'
  end
elseif state == 'probing' then
  if name ~= probe_session or not through then
    why = 'probing'
  elseif pause_until > now then   -- a call of the probe before this one has been answered so
    why = 'pause'
  end
else
  why = obstacle(through)
end

if why then
  redis.call('ZREM', CALLS, call)
  redis.call('RPUSH', HELD, name)
  redis.call('ZADD', GATES, 1, ARGV[10])
  hold(name, why, now)
  tally('held')
  return {'held', why}
end

local probe = state == 'probing'
local allowed = probe and CEILING or deadline()
local delay = reserve()
local ends = now + delay + allowed
redis.call('ZADD', CALLS, exact(ends + GRACE), call)
if tally('calls') == 1 then redis.call('ZADD', GATES, 'NX', 0, ARGV[10]) end
if probe then
  redis.call('HSET', GATE, 'probe_call', call, 'probe_ends', exact(ends + GRACE))
  tally('probes')
end
if admitted ~= token then redis.call('HSET', SESSION, 'admitted', token) end
if last > 0 then
  record_intent(intent, first, last, math.ceil(now + delay) + tonumber(ARGV[11]))
end
redis.call('ZADD', LEASES, ms(now + delay + tonumber(ARGV[3])), name)
return {'go', exact(allowed), exact(delay), epoch, class, probe and 1 or 0}
