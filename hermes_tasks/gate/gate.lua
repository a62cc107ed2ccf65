-- Shared by every gate script: the loader puts this text in front of each of them, behind
-- common.lua where the script works on a session as well.
--
-- KEYS, the LAST eleven of every gate script, all in one slot by their {prefix} tag:
--    1 gate       hash  its fields are below
--    2 held       list  held sessions, oldest on the left
--    3 calls      zset  call in flight -> when it counts as lost, ms
--    4 permits    zset  session that may come -> when that is void, ms
--    5 gates      zset  name of every gate -> 1 while it holds sessions, else 0
--    6, 8, 10     zset  samples of calls of up to 4, 20, 100 messages: "duration call" -> its time
--    7, 9, 11     zset  the same samples -> their duration, ms
-- ARGV, the LAST: the policy, its numbers in the order they are read in below.
--
-- Two orders of the samples, because one script must forget the oldest and find a rank without
-- reading them all: a p95 of 256 samples costs as much as one of 10.
--
-- Fields of the gate's hash. Of the breaker:
--   state                     open or probing; none: closed
--   epoch, since              number of the state, and when it began
--   opened_at                 while open or probing: since when, whatever probes were made meanwhile
--   failures, failed_by       in a row, in this epoch; the worker of all of them, or empty
--   well_by, well_at          the worker of the newest call that went well, and when it ended
--   denied                    while open because the backend denies us: how, and what to do, for people
--   probe_at, probe_wait      while open: when the next probe is due, and the interval before jitter
--   probe, probe_call         while probing: its session, and its call once that is admitted
--   probe_ends                while probing: when it is over, whatever became of it
--   shut                      while open by hand, for a maintenance: "until for why": when that is over
--                             (0: when somebody says so), how long it was to last, and for people why
-- Of the ramp: limit (none: no limit), cut_at, trouble (share of bad calls), and slow:c, ms from
--   which a call of a size class is slow (none: only when it is cut).
-- Of the pace: tat (theoretical arrival time).
-- Of a pause: pause_until, pause_why.
-- Of the deadline, for each size class c: n:c and p95:c as of the newest sample, sampled_at:c, and
--   raised:c, the fast calls still to come before the class leaves the ceiling.
-- Counters: n_calls, n_held, n_opened, n_probes, n_denied, n_bypassed, n_late. Of calls that write, by
--   how long they took: took:<bound in ms> those of that bucket, took_sum ms of all.
--
-- All times are milliseconds of Redis TIME, with a fraction. rules.py takes the same decisions in
-- Python, and tests hold the two against each other step by step.

local FIRST_KEY = #KEYS - 11
local GATE, HELD, CALLS, PERMITS, GATES = KEYS[FIRST_KEY + 1], KEYS[FIRST_KEY + 2],
  KEYS[FIRST_KEY + 3], KEYS[FIRST_KEY + 4], KEYS[FIRST_KEY + 5]

local CLASSES = {4, 20, 100}
local SAMPLES_BY_TIME = {[4] = KEYS[FIRST_KEY + 6], [20] = KEYS[FIRST_KEY + 8],
  [100] = KEYS[FIRST_KEY + 10]}
local SAMPLES_BY_DURATION = {[4] = KEYS[FIRST_KEY + 7], [20] = KEYS[FIRST_KEY + 9],
  [100] = KEYS[FIRST_KEY + 11]}

local RAISED_CALLS = 30      -- fast calls in a row that take a class back from the ceiling
local RELEASE_WIDTH = 16     -- permits outstanding while no limit is in force
local PACE_AHEAD = 500       -- a permit is granted so long before the pace lets its call start, ms
local PACE_SPACING = 1.04    -- calls scatter on their way, and no second may hold one too many
local PAUSE_DEFAULT = 1000   -- the pause after a 429 without Retry-After, ms
local SLOW_START = 8         -- below this limit each good call adds one, above it a round does
local CLIMB = 1 / 32         -- and at least this share of the limit in a round
local TOOK = {50, 100, 250, 500, 1000, 2500, 5000, 7500, 10000, 15000, 20000, 30000, 60000, 120000}

local policy = {}
for number in string.gmatch(ARGV[#ARGV], '%S+') do policy[#policy + 1] = tonumber(number) end
local FAILURES, PROBE_MS, PROBE_LONGEST, FLOOR, CEILING, HEADROOM, WINDOW, WINDOW_MS, WARMUP, RATE,
  BURST, PERMIT_MS, PAUSE_LONGEST, GRACE = unpack(policy)

-- A number as Redis stores it, without losing a bit of it.
local function exact(number) return string.format('%.17g', number) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000

local state, epoch, failures, probe_at, probe_wait, probe_session, probe_call, probe_ends, limit,
  cut_at, tat, pause_until, shut = unpack(redis.call('HMGET', GATE, 'state', 'epoch', 'failures',
    'probe_at', 'probe_wait', 'probe', 'probe_call', 'probe_ends', 'limit', 'cut_at', 'tat',
    'pause_until', 'shut'))
state = state or 'closed'
epoch, failures = tonumber(epoch or '0'), tonumber(failures or '0')
probe_at, probe_wait = tonumber(probe_at or '0'), tonumber(probe_wait or '0')
probe_ends, limit = tonumber(probe_ends or '0'), tonumber(limit or nil)
cut_at, tat, pause_until = tonumber(cut_at or '0'), tonumber(tat or '0'), tonumber(pause_until or '0')

local interval = RATE > 0 and 1000 / RATE * PACE_SPACING

-- A time further ahead than any that is set here was set before the clock stepped back. It is over:
-- a deployment must not stand still for as long as the step was.
local horizon = now + math.max(1.1 * math.max(PROBE_LONGEST, PROBE_MS), PAUSE_LONGEST,
  CEILING + GRACE + 60000)
if probe_at > horizon then probe_at = now end
if probe_ends > horizon then probe_ends = now end
if pause_until > horizon then pause_until = 0 end
-- Calls that follow on another take places of the pace however far ahead they are: one for each call.
if interval and tat > horizon + BURST * interval then
  tat = math.min(tat, now + (redis.call('ZCARD', CALLS) + 1) * interval)
end
-- The same for calls, which begin as late as places of the pace are taken.
local calls_horizon = math.max(horizon, (interval and tat or now) + CEILING + GRACE)

-- Until when calls are stopped by hand, 0: until somebody says so; or nil. A maintenance may last for
-- days, so it has a horizon of its own: it never lasts longer from now on than it was to last.
local shut_until, shut_for, shut_why
if shut then
  shut_until, shut_for, shut_why = string.match(shut, '^(%d%S*) (%d%S*) (.*)$')
  shut_until, shut_for = tonumber(shut_until), tonumber(shut_for)
  if not shut_for then shut_until = nil end
end

local function keep_shut()
  redis.call('HSET', GATE, 'shut',
    table.concat({exact(shut_until), exact(shut_for), shut_why}, ' '))
end

local function is_shut() return shut_until and (shut_until == 0 or shut_until > now) end

local function tally(what, by) return redis.call('HINCRBY', GATE, 'n_' .. what, by or 1) end

-- The breaker ------------------------------------------------------------------------------------

-- Every change of state starts an epoch, and voids the permits of the one before.
local function enter(what)
  state, epoch, failures = what, epoch + 1, 0
  probe_session, probe_call, probe_ends, shut_until = nil, nil, 0, nil
  redis.call('DEL', PERMITS)
  redis.call('HSET', GATE, 'epoch', epoch, 'since', exact(now))
  redis.call('HDEL', GATE, 'failures', 'probe', 'probe_call', 'probe_ends', 'shut')
  if what == 'closed' then
    redis.call('HDEL', GATE, 'state', 'denied', 'opened_at', 'probe_at', 'probe_wait')
  else
    redis.call('HSET', GATE, 'state', what)
    redis.call('HSETNX', GATE, 'opened_at', exact(now))
  end
end

-- denied: how the backend denied the call, or nil after a failure. To deny one costs it nothing, and
-- somebody is waiting to see that the new key is good: then the interval does not double. Returns
-- whether it is news that we are denied.
local function open(jitter, denied)
  local again = state == 'probing' and not denied
  probe_wait = again and math.min(2 * probe_wait, math.max(PROBE_LONGEST, PROBE_MS)) or PROBE_MS
  probe_at = now + probe_wait * (0.9 + 0.2 * jitter)
  enter('open')
  redis.call('HSET', GATE, 'probe_at', exact(probe_at), 'probe_wait', exact(probe_wait))
  if denied then return redis.call('HSET', GATE, 'denied', denied) == 1 end
  redis.call('HDEL', GATE, 'denied')
  return false
end

-- The probe was never sent: the next in line is the probe, at once.
local function pass_on()
  probe_at = now
  enter('open')
  redis.call('HSET', GATE, 'probe_at', exact(now))
end

local function start_probe(session)
  enter('probing')
  probe_session, probe_ends = session, now + PERMIT_MS
  redis.call('HSET', GATE, 'probe', session, 'probe_ends', exact(probe_ends))
end

-- A Retry-After holds the probe as well, and so does a maintenance.
local function probe_due() return probe_at <= now and pause_until <= now and not is_shut() end

-- Let go of what time has ended: permits, calls, and a probe nobody reported. Each script begins
-- with this; it also writes, without needing memory, so that nothing after it is refused while
-- Redis has no memory left (allow_full_memory of common.lua).
local function roll(jitter)
  redis.call('ZREMRANGEBYSCORE', PERMITS, '-inf', exact(now))
  redis.call('ZREMRANGEBYSCORE', CALLS, '-inf', exact(now))
  if state == 'probing' and probe_ends <= now then
    if probe_call then open(jitter) else pass_on() end
  end
  if shut_until and shut_until > now + shut_for then   -- the clock stepped back
    shut_until = now + shut_for
    keep_shut()
  end
end

-- The ramp ---------------------------------------------------------------------------------------

local function set_limit(to)
  limit, cut_at = math.max(1, to), now
  redis.call('HSET', GATE, 'limit', exact(limit), 'cut_at', exact(now))
end

-- The limit begins anew, and what is known of the calls at the last one is forgotten.
local function start_limit(at)
  set_limit(at)
  redis.call('HDEL', GATE, 'trouble', 'slow:0', 'slow:4', 'slow:20', 'slow:100')
end

-- The pace: the generic cell rate algorithm (ITU-T I.371) ----------------------------------------

-- Ms until the next call may start.
local function pace_wait()
  return interval and math.max(0, tat - (BURST - 1) * interval - now) or 0
end

-- Take the next place; returns ms until then.
local function reserve()
  local wait = pace_wait()
  if interval then
    tat = math.max(tat, now) + interval
    redis.call('HSET', GATE, 'tat', exact(tat))
  end
  return wait
end

-- The queue of held sessions ---------------------------------------------------------------------

-- Permits that may be granted now.
local function room(permits)
  local free = limit and math.floor(limit) - redis.call('ZCARD', CALLS) or RELEASE_WIDTH
  if interval then
    local ahead = now + PACE_AHEAD - math.max(tat, now)
    free = math.min(free, math.max(0, math.floor(ahead / interval) + BURST))
  end
  return math.max(0, free - permits)
end

-- Grant permits to the oldest held sessions, as many as may call now. Returns 1 when the session is
-- the probe, and the sessions to resume. Those that have a permit and are still in the queue are
-- named again: whoever was to resume them may have died.
local function release()
  if state == 'open' then
    local oldest = probe_due() and redis.call('LINDEX', HELD, 0)
    if not oldest then return 0, {} end
    start_probe(oldest)
    redis.call('ZADD', PERMITS, exact(probe_ends), oldest)
    return 1, {oldest}
  end
  if state == 'probing' then
    -- Sessions are resumed from the left, so a probe that is still held is the oldest.
    local oldest = redis.call('LINDEX', HELD, 0)
    local again = oldest and redis.call('ZSCORE', PERMITS, oldest)
    return again and 1 or 0, again and {oldest} or {}
  end
  if pause_until > now then return 0, {} end
  local permits = redis.call('ZCARD', PERMITS)
  local free = room(permits)
  -- As far as the walk can go: it costs what it releases, however many are held.
  local sessions = {}
  for _, session in ipairs(free + permits > 0 and
      redis.call('LRANGE', HELD, 0, free + permits - 1) or {}) do
    if not redis.call('ZSCORE', PERMITS, session) then
      if free == 0 then break end
      free = free - 1
      redis.call('ZADD', PERMITS, exact(now + PERMIT_MS), session)
    end
    sessions[#sessions + 1] = session
  end
  return 0, sessions
end
