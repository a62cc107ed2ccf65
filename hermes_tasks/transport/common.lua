-- Shared by every session script: the loader puts this text in front of each of them.
--
-- KEYS, the same twelve for every session script, all in one slot by their {prefix} tag:
--   1 session   hash    state, since, token, worker, attempts, solo, progress, wake, intent,
--                       accepted, settled, epoch, suspect, senders
--   2 inflight  list    items a worker has taken and not settled, oldest first
--   3 waiting   list    items in order of acceptance, bounded
--   4 backlog   list    items that overflowed waiting: older than all in it, bounded
--   5 ids       set     message ids in the three lists
--   6 ready     zset    session -> its run-queue number
--   7 leases    zset    session -> lease expiry, ms
--   8 sleeping  zset    session -> wake time, ms
--   9 run       list    the run queue: ["number","session"], newest on the left
--  10 meta      hash    number (last run-queue number), epoch, run_id, mark, mark_at, swept_at
--  11 dead      stream  dead letters, capped
--  12 stats     hash    counters
--
-- An item is "<number> <id> <size> <kind> <not before, ms> <message>": the number is the message's
-- place in its session, the kind says what it may share a batch with ("-": nothing).
-- All times are milliseconds of Redis TIME.

local SESSION, INFLIGHT, WAITING, BACKLOG, IDS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local READY, LEASES, SLEEPING, RUN = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local META, DEAD, STATS = KEYS[10], KEYS[11], KEYS[12]

local DEAD_LETTERS = 10000      -- kept, about
local REMEMBER_MS = 86400000    -- an idle session is remembered for a day: deduplication

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
  local number, id, size, kind, not_before = string.match(item, '^(%d+) (%S+) (%d+) (%S+) (%d+) ')
  return {number = tonumber(number), id = id, size = tonumber(size), kind = kind,
          not_before = tonumber(not_before), text = item}
end

local function count(what, by) redis.call('HINCRBY', STATS, what, by or 1) end

local function head_of(list)
  local item = redis.call('LINDEX', list, 0)
  return item and parse(item)
end

-- The message that is next when nothing is in flight, or nil.
local function next_head() return head_of(BACKLOG) or head_of(WAITING) end

local function forget(ids)
  redis.call('SREM', IDS, unpack(ids))
  redis.call('HINCRBY', SESSION, 'settled', #ids)
end

-- Keep an item that is given up, with the reason. The caller takes it out of its list.
local function bury(name, item, reason, detail)
  redis.call('XADD', DEAD, 'MAXLEN', '~', DEAD_LETTERS, '*', 'session', name, 'id', item.id,
    'number', item.number, 'reason', reason, 'detail', detail or '',
    'attempts', redis.call('HGET', SESSION, 'attempts') or '0', 'message',
    string.match(item.text, '^%d+ %S+ %d+ %S+ %d+ (.*)$'))
  forget({item.id})
  count('dead:' .. reason)
end

local function make_ready(name)
  local number = redis.call('HINCRBY', META, 'number', 1)
  redis.call('ZADD', READY, number, name)
  redis.call('HSET', SESSION, 'state', 'ready', 'since', number)
  redis.call('LPUSH', RUN, cjson.encode({ms(number), name}))
  return 'ready'
end

local function sleep_until(name, time)
  redis.call('HSET', SESSION, 'state', 'sleeping')
  redis.call('ZADD', SLEEPING, ms(time), name)
  return 'sleeping'
end

-- With nothing in flight: queue the session, let it sleep until its head may run, or let it idle.
-- Returns its state.
local function move_on(name, now)
  local head = next_head()
  if not head then
    redis.call('HDEL', SESSION, 'state', 'since')
    redis.call('PEXPIRE', SESSION, REMEMBER_MS)
    return 'idle'
  end
  return head.not_before > now and sleep_until(name, head.not_before) or make_ready(name)
end

-- A session's intent is over once no message of that call is left in flight; head is what is left.
local function resolve_intent(intent, head)
  if intent and (not head or head.number > tonumber(string.match(intent, '^%d+ (%d+)'))) then
    redis.call('HDEL', SESSION, 'intent')
  end
end
