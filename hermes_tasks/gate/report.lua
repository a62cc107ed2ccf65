-- report: say how a call ended, and learn which held sessions may come now.
--
-- KEYS  the eleven of the gate (gate.lua)
-- ARGV  1 call id  2 its epoch  3 its size class (0: its duration is no sample)  4 how it ended
--       5 duration, ms  6 the deadline it had, ms  7 Retry-After, ms (-1: none)
--       8 why the backend limits or denies, for people  9 a random number in [0, 1)  10 the policy
-- Returns {state, what it has done to the breaker: 'opened', 'closed' or '', 1 if it is news that the
--   backend denies us, 1 for a probe, sessions to resume…}
--
-- It ended one of
--   ok, refused   the backend is well: a 4xx says so too
--   failed        5xx, or the connection broke: a failure
--   timeout       at the ceiling a failure; below it only a sign that the deadline is too short
--   limited       429: every worker pauses
--   denied        401 or 403: whoever calls next is denied as well, so the breaker opens at once
--   unsent        its first byte never left
-- A call id "worker#…" says whose call it was: what one worker alone meets, a run of failures or a
-- denial, says nothing of the backend while another is well.
-- A call that is not in flight any more (its time ran out, it was reported before) or is of an older
-- epoch is late: it may add its sample, and moves nothing else.

local call, ended, jitter = ARGV[1], ARGV[4], tonumber(ARGV[9])
local class, duration, allowed = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local measured = duration >= 0   -- NaN is not, nor is a negative number

roll(jitter)
local was, news, news_of_denial = state, '', false
local known = redis.call('ZREM', CALLS, call) == 1

local function raise(which) redis.call('HSET', GATE, 'raised:' .. which, RAISED_CALLS) end

local function forget_samples(samples)
  if #samples == 0 then return end
  redis.call('ZREM', SAMPLES_BY_TIME[class], unpack(samples))
  redis.call('ZREM', SAMPLES_BY_DURATION[class], unpack(samples))
end

-- The latency of a success, and the nearest-rank p95 with it: the ceil(0.95 n)-th in order.
local function sample()
  local by_time, by_duration = SAMPLES_BY_TIME[class], SAMPLES_BY_DURATION[class]
  local member = exact(duration) .. ' ' .. call
  redis.call('ZADD', by_time, exact(now), member)
  redis.call('ZADD', by_duration, exact(duration), member)
  local over = redis.call('ZCARD', by_time) - WINDOW
  if over > 0 then forget_samples(redis.call('ZRANGE', by_time, 0, over - 1)) end
  forget_samples(redis.call('ZRANGEBYSCORE', by_time, '-inf', exact(now - WINDOW_MS)))
  local n = redis.call('ZCARD', by_time)
  local rank = math.floor((95 * n + 99) / 100)
  local p95 = redis.call('ZRANGE', by_duration, rank - 1, rank - 1, 'WITHSCORES')[2]
  redis.call('HSET', GATE, 'n:' .. class, n, 'p95:' .. class, p95,
    'sampled_at:' .. class, exact(now))
  local raised = redis.call('HGET', GATE, 'raised:' .. class)
  if raised and duration >= FLOOR then
    raise(class)
  elseif raised and redis.call('HINCRBY', GATE, 'raised:' .. class, -1) <= 0 then
    redis.call('HDEL', GATE, 'raised:' .. class)
  end
end

-- How long calls that write take, whatever became of them; gate.py has the bounds too.
local function count_duration()
  local bucket = 'inf'
  for _, bound in ipairs(TOOK) do
    if duration <= bound then
      bucket = bound
      break
    end
  end
  redis.call('HINCRBY', GATE, 'took:' .. bucket, 1)
  redis.call('HINCRBY', GATE, 'took_sum', math.floor(duration))
end

-- A call that was cut below the ceiling leaves no sample: without this the deadline that is too
-- short would cut every call, and stay.
local function lift()
  for _, which in ipairs(CLASSES) do
    if which >= class then raise(which) end
  end
end

-- Ask for a pause, never shorter than one asked for before. A tenth more at random, so that several
-- deployments do not come back in one instant; the cap holds for the sum.
local function pause()
  local asked = tonumber(ARGV[7])
  local wait = math.min(asked > 0 and asked or PAUSE_DEFAULT, PAUSE_LONGEST)
  local until_then = now + math.min(wait * (1 + 0.1 * jitter), PAUSE_LONGEST)
  if until_then > pause_until then
    pause_until = until_then
    redis.call('HSET', GATE, 'pause_until', exact(pause_until), 'pause_why', ARGV[8])
  end
end

-- At a limit of one a call had the backend to itself: its class is slow from a few times that. Both
-- bounds are needed: a fixed one alone takes a backend that needs 12 s for a drowning one.
local function measure()
  local slow = math.min(math.max(HEADROOM * duration, FLOOR), CEILING)
  redis.call('HSET', GATE, 'slow:' .. class, exact(slow))
end

-- The ramp, after a call that ended while so many, itself included, were in flight.
local function climb_or_cut(in_flight)
  local bad = ended == 'failed' or ended == 'timeout' or ended == 'limited'
  if ended == 'ok' and measured then
    if limit < 2 then measure() end
    bad = duration >= tonumber(redis.call('HGET', GATE, 'slow:' .. class) or CEILING)
  elseif not bad then
    return
  end
  local trouble = tonumber(redis.call('HGET', GATE, 'trouble') or '0')
  trouble = trouble + ((bad and 1 or 0) - trouble) / math.max(2, limit)
  redis.call('HSET', GATE, 'trouble', exact(trouble))
  local started = measured and now - duration or now
  if bad and started > cut_at then
    -- Once per round: what started before the cut says nothing new. By half of the bad calls' share
    -- (DCTCP, RFC 8257), or by half when the backend said that these are too many.
    set_limit(limit * (ended == 'limited' and 0.5 or 1 - trouble / 2))
  elseif not bad and 2 * in_flight >= limit then
    -- A limit that is not in use does not grow (RFC 7661), or it would mean nothing when it is.
    limit = limit + (limit < SLOW_START and 1 or math.max(1 / limit, CLIMB))
    redis.call('HSET', GATE, 'limit', exact(limit))
  end
end

local worker = string.match(call, '^(.+)#')

-- Whether what a worker met is its own: another has just been well. Three calls that a worker without
-- a network makes between two of the others are no outage, and a worker with an old key is no reason
-- for the others to stop.
local function its_own(met_by)
  if not met_by or met_by == '' then return false end
  local well_by, well_at = unpack(redis.call('HMGET', GATE, 'well_by', 'well_at'))
  return well_by and well_by ~= met_by and tonumber(well_at) > now - CEILING
end

-- Whether this result is enough to open, with so many calls in flight.
local function trips(in_flight)
  if ended == 'denied' then return not its_own(worker) end
  return failures >= math.max(FAILURES, in_flight)
    and not its_own(redis.call('HGET', GATE, 'failed_by'))
end

-- A result of this epoch moves breaker, pause and ramp.
local function move()
  local in_flight = redis.call('ZCARD', CALLS) + 1
  local well = ended == 'ok' or ended == 'refused' or ended == 'limited'
  local denied = ended == 'denied' and ARGV[8] or nil
  if denied then tally('denied') end
  if well then
    if failures > 0 then redis.call('HDEL', GATE, 'failures') end
    failures = 0
    if worker then redis.call('HSET', GATE, 'well_by', worker, 'well_at', exact(now)) end
  elseif ended == 'failed' or ended == 'timeout' and allowed >= CEILING then
    failures = failures + 1
    redis.call('HSET', GATE, 'failures', failures)
    if failures == 1 then
      redis.call('HSET', GATE, 'failed_by', worker or '')
    elseif redis.call('HGET', GATE, 'failed_by') ~= worker then
      redis.call('HSET', GATE, 'failed_by', '')
    end
  end
  if ended == 'limited' then
    pause()
    if not limit then start_limit(in_flight / 2) end
  end
  if state == 'probing' then
    if call ~= probe_call then return end
    if well then
      enter('closed')
      start_limit(1)
      if ended == 'ok' and measured then measure() end
    else
      news_of_denial = open(jitter, denied)
    end
    return
  end
  if limit then climb_or_cut(in_flight) end
  if state == 'closed' and trips(in_flight) then
    news_of_denial = open(jitter, denied)
    tally('opened')
  end
end

if class > 0 then
  if measured and ended ~= 'unsent' then count_duration() end
  if ended == 'ok' and measured then
    sample()
  elseif ended == 'timeout' and allowed < CEILING then
    lift()
  end
end
if not known or tonumber(ARGV[2]) ~= epoch then
  tally('late')
elseif ended == 'unsent' then
  if call == probe_call then pass_on() end
else
  move()
end
if was == 'closed' and state == 'open' then
  news = 'opened'
elseif was ~= 'closed' and state == 'closed' then
  news = 'closed'
end
local probe, sessions = release()
return {state, news, news_of_denial and 1 or 0, probe, unpack(sessions)}
