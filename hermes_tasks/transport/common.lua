-- Shared by every session script: the loader puts this text in front of each of them.
--
-- KEYS, the same for every session script, all in one slot by their {prefix} tag; a script that needs
-- more has them behind these:
--   1 session   hash    its fields are below
--   2 inflight  list    items a worker has taken and not settled, oldest first
--   3 waiting   list    items in order of acceptance, bounded
--   4 backlog   list    items that overflowed waiting: older than all in it, bounded
--   5 ids       set     message ids in the three lists
--   6 ready     zset    session -> its run-queue number
--   7 leases    zset    session -> lease expiry, ms
--   8 sleeping  zset    session -> wake time, ms
--   9 run       list    the run queue: ["number","session"], newest on the left
--  10 meta      hash    number (last run-queue number), run_id, epoch, epoch_at, mark, mark_at,
--                       swept_at, sampled_at (ops/history.lua)
--  11 dead      stream  dead letters, capped in number and age (dead.py)
--  12 stats     hash    counters
--  13 lagging   zset    session -> when its oldest message was accepted or became due, ms
--  14 paused    zset    session that is not queued until somebody resumes it -> since when, ms
--
-- An item is "<number> <id> <size> <kind> <since, ms>[+] <message>": the number is the message's
-- place in its session, the kind says what it may share a batch with ("-": nothing), and since is
-- when it was accepted, or with a + when it becomes due. Only what has a + waits for its time: a
-- clock that steps back must not make all that is queued wait.
-- All times are milliseconds of Redis TIME.
--
-- Lagging is the order of all sessions that have messages, by age, for whoever looks at them: nothing
-- is decided by it. While a session is leased and nothing is in flight it still says what was.
--
-- Counters: accepted, written (of these found: a question found them written), dead:<reason>, purged,
-- dead_retried; what is queued is what they leave. lag:<bound in ms>: messages by their age when they
-- were written, each in the first bucket that it fits in; lag_sum: of all, ms. backlog: messages in
-- all backlogs now. The others count what happened: duplicate, gap, stale, retried, failed, …
--
-- Fields of a session's hash. Of the session:
--   state                    ready, leased, sleeping, held, paused; none: idle. Held is a session that
--                            waits to be let go on: with work, and in none of ready, leases and
--                            sleeping; paused is one that waits for somebody to resume it, with work
--                            or without
--   since                    its first run-queue number while it is ready
--   accepted, settled        messages so far; written: the highest number that is
--   epoch                    of Redis, up to which its calls are known
--   senders                  the last message of each of the four latest
--   buried                   its first dead letter: numbers of older ones are of a session that was
--                            forgotten meanwhile
--   given_up                 ids of its latest dead letters
--   intent                   "first last until asked" of the calls that are in doubt: the messages
--                            they carried, the ms before which one may still land (0: none can),
--                            and how often it was asked in vain whether one has
--   rewritten                ids of the latest messages that were written while in doubt
--   paused                   since when nobody may take it, ms. While it is leased or held, that goes on
--                            until it ends
--   due                      while its state is paused: when it would wake, if not at once
--   watched                  the number up to which somebody waits for its messages: when they are
--                            settled, that is told on the channel that has the hash's name, once
-- Of the claim:
--   token, worker            who holds the lease
--   progress                 messages settled under it
--   wake                     when its task wants to be tried again: the session sleeps until then
--   noted                    its task has said what was wrong
--   admitted                 the token under which a call was let go
-- Of the head:
--   attempts                 failed ones, since the last progress
--   most                     messages that the next claim takes at most
--   tries                    times its task has postponed it
--   trace                    what it went through: lines of "<ms> <text>"

local SESSION, INFLIGHT, WAITING, BACKLOG, IDS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local READY, LEASES, SLEEPING, RUN = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local META, DEAD, STATS, LAGGING, PAUSED = KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local SESSION_KEYS = 14

local DEAD_LETTERS = 10000      -- kept, about
local REMEMBER_MS = 86400000    -- an idle session is remembered for a day: deduplication
local TRACE_FIRST, TRACE_LAST = 10, 30   -- lines kept: how it began, and how it is now
local REWRITTEN = 16            -- ids kept of a session, to be looked for once more
local GIVEN_UP = 16             -- ids kept of a session, not to be taken from a gateway once more

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Redis with its memory full refuses a script's first write if that needs memory, and none after it.
-- What adds a message must be refused, and what works off the queues must not, or memory never
-- becomes free: the retries of the refused would end as dead letters. So those begin with this.
local function allow_full_memory() redis.call('PERSIST', META) end

local function ms(time) return string.format('%.0f', time) end

local function parse(item)
  local number, id, size, kind, since, delayed =
    string.match(item, '^(%d+) (%S+) (%d+) (%S+) (%d+)(%+?) ')
  since = tonumber(since)
  return {number = tonumber(number), id = id, size = tonumber(size), kind = kind, since = since,
          not_before = delayed == '+' and since or 0, text = item}
end

local function count(what, by) redis.call('HINCRBY', STATS, what, by or 1) end

-- Messages that came at these times are written now. The bounds of the buckets for their ages are in
-- ops/overview.py as well.
local function count_written(sinces, now)
  local bounds = {100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 120000, 300000, 600000,
    1800000, 3600000, 14400000, 86400000}
  local buckets, sum = {}, 0
  for _, since in ipairs(sinces) do
    local age, bucket = math.max(0, now - since), 'inf'
    for _, bound in ipairs(bounds) do
      if age <= bound then
        bucket = bound
        break
      end
    end
    buckets[bucket] = (buckets[bucket] or 0) + 1
    sum = sum + age
  end
  count('written', #sinces)
  for bucket, many in pairs(buckets) do count('lag:' .. bucket, many) end
  count('lag_sum', sum)
end

local function head_of(list)
  local item = redis.call('LINDEX', list, 0)
  return item and parse(item)
end

-- The message that is next when nothing is in flight, or nil.
local function next_head() return head_of(BACKLOG) or head_of(WAITING) end

-- The session lags since its oldest message was accepted or, if it was delayed, became due.
local function set_lag(name, head) redis.call('ZADD', LAGGING, ms(head.since), name) end

-- The same where the head may have been taken out, while no worker has the session.
local function refresh_lag(name)
  local head = head_of(INFLIGHT) or next_head()
  if head then set_lag(name, head) else redis.call('ZREM', LAGGING, name) end
end

local function forget(ids)
  redis.call('SREM', IDS, unpack(ids))
  redis.call('HINCRBY', SESSION, 'settled', #ids)
end

-- Tell who waits for it that everything up to the number watched is settled. Whoever settles messages
-- calls this when it has taken them out, with the field; without one it costs nothing. A channel needs
-- no key, and a user who may not publish settles all the same: who waits also looks by himself.
local function announce(watched)
  if not watched then return end
  local head = head_of(INFLIGHT) or next_head()
  if head and head.number <= tonumber(watched) then return end
  redis.call('HDEL', SESSION, 'watched')
  redis.pcall('PUBLISH', SESSION, '')
end

-- Add a line to what the head went through. "held: …" is a wait, everything else a failure.
local function trace(text, now)
  local lines = (redis.call('HGET', SESSION, 'trace') or '')
    .. ms(now) .. ' ' .. string.gsub(text, '%c', ' ') .. '\n'
  local ends = {}
  for at in string.gmatch(lines, '()\n') do ends[#ends + 1] = at end
  if #ends > TRACE_FIRST + TRACE_LAST then
    lines = string.sub(lines, 1, ends[TRACE_FIRST])
      .. string.sub(lines, ends[#ends - TRACE_LAST] + 1)
  end
  redis.call('HSET', SESSION, 'trace', lines)
end

-- Keep an item that is given up, with the reason, its trace if it is the head, and the ms until which
-- a call that carried it may land. The caller takes it out of its list.
local function bury(name, item, reason, detail, lines)
  local size, kind, message = string.match(item.text, '^%S+ %S+ (%S+) (%S+) %S+ (.*)$')
  local first, last, lands =
    string.match(redis.call('HGET', SESSION, 'intent') or '', '^(%d+) (%d+) (%d+)')
  local in_doubt = first and item.number >= tonumber(first) and item.number <= tonumber(last)
  local entry = redis.call('XADD', DEAD, '*', 'session', name, 'id', item.id,
    'number', item.number, 'size', size, 'kind', kind, 'reason', reason, 'detail', detail or '',
    'attempts', redis.call('HGET', SESSION, 'attempts') or '0', 'trace', lines or '',
    'lands', in_doubt and lands or '0', 'message', message)
  local dropped = redis.call('XTRIM', DEAD, 'MAXLEN', '~', DEAD_LETTERS)
  if dropped > 0 then count('dead_trimmed', dropped) end
  redis.call('HSETNX', SESSION, 'buried', entry)
  local ids = {item.id}
  for id in string.gmatch(redis.call('HGET', SESSION, 'given_up') or '', '%S+') do
    if #ids < GIVEN_UP and id ~= item.id then ids[#ids + 1] = id end
  end
  redis.call('HSET', SESSION, 'given_up', table.concat(ids, ' '))
  forget({item.id})
  count('dead:' .. reason)
end

-- Whether the session is paused. A script that ends what a paused session may be in, a lease or being
-- held, sets this from the fields that it reads anyway; then nothing here queues it.
local paused = false

local function park(wake)
  redis.call('HSET', SESSION, 'state', 'paused')
  if wake then redis.call('HSET', SESSION, 'due', ms(wake)) end
  return 'paused'
end

local function make_ready(name)
  if paused then return park() end
  local number = redis.call('HINCRBY', META, 'number', 1)
  redis.call('ZADD', READY, number, name)
  redis.call('HSET', SESSION, 'state', 'ready', 'since', number)
  redis.call('LPUSH', RUN, cjson.encode({ms(number), name}))
  return 'ready'
end

local function sleep_until(name, time)
  if paused then return park(time) end
  redis.call('HSET', SESSION, 'state', 'sleeping')
  redis.call('ZADD', SLEEPING, ms(time), name)
  return 'sleeping'
end

-- With nothing in flight: queue the session, let it sleep until its head may run, or let it idle;
-- or none of this, while it is paused. Returns its state. Who knows the head gives it.
local function move_on(name, now, head)
  head = head or next_head()
  if not head then
    redis.call('ZREM', LAGGING, name)
    redis.call('HDEL', SESSION, 'state', 'since', 'intent', 'attempts', 'most', 'tries', 'trace')
    if paused then return park() end
    redis.call('PEXPIRE', SESSION, REMEMBER_MS)
    return 'idle'
  end
  set_lag(name, head)
  return head.not_before > now and sleep_until(name, head.not_before) or make_ready(name)
end

-- End a claim that came to no outcome: the session is the task's no more, and waits for why.
local function let_go(name, why, now)
  if redis.call('HGET', SESSION, 'progress') then
    redis.call('HDEL', SESSION, 'attempts', 'most', 'tries')
    refresh_lag(name)   -- all that was in flight may be settled
  end
  trace('held: ' .. why, now)
  redis.call('HDEL', SESSION, 'token', 'worker', 'wake', 'progress', 'noted', 'admitted')
  redis.call('ZREM', LEASES, name)
end

-- Let a leased session wait to be let go on. Who holds sessions keeps them in a list of its own, and
-- calls go_on for what it has taken out of that.
local function hold(name, why, now)
  let_go(name, why, now)
  redis.call('HSET', SESSION, 'state', 'held')
end

-- Let a held session go on. Returns its state; nil if it was not held. It is not ready when it was
-- paused meanwhile, or its messages were dropped.
local function go_on(name, now)
  local state, is_paused = unpack(redis.call('HMGET', SESSION, 'state', 'paused'))
  if state ~= 'held' then return nil end
  paused = is_paused
  return head_of(INFLIGHT) and make_ready(name) or move_on(name, now)
end

-- The parts of an intent: first, last, until, asked.
local function parts_of(intent)
  local first, last, lands, asked = string.match(intent, '^(%d+) (%d+) (%d+) (%d+)$')
  return tonumber(first), tonumber(last), tonumber(lands), tonumber(asked)
end

local function set_intent(...)
  local intent = string.format('%.0f %.0f %.0f %.0f', ...)
  redis.call('HSET', SESSION, 'intent', intent)
  return intent
end

-- Record that a call that writes the messages first…last is about to be made, or may have been, and
-- may land before lands; returns the intent. It outlives lease and worker. A call that is still in
-- doubt stays in it: a retry takes the head alone, and forgetting that the call before had carried
-- its followers too would write them a second time.
local function record_intent(intent, first, last, lands, asked)
  if intent then
    local earlier_first, earlier_last, earlier_lands = parts_of(intent)
    first, last = math.min(first, earlier_first), math.max(last, earlier_last)
    lands = math.max(lands, earlier_lands)
  end
  return set_intent(first, last, lands, asked or 0)
end

-- The latest call was answered. A call is made only when none before it can land any more, so now
-- none can; but one may have.
local function answer_intent(intent)
  local first, last = parts_of(intent)
  set_intent(first, last, 0, 0)
end

-- A session's intent is over once its next message, of this number, is none that it covers. Returns
-- what is left of it: itself or nothing.
local function resolve_intent(intent, number)
  if not intent then return nil end
  local _, last = parts_of(intent)
  if number <= last then return intent end
  redis.call('HDEL', SESSION, 'intent')
end
