-- complete: end a claim, however it ended, and give the session its next state.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 token  3 outcome  4 id of the message that was delivered
--       5 first wait after a failed attempt, ms  6 longest wait, ms  7 a random number in [0, 1)
--       8 attempts after which the head is a dead letter  9… ids, with the outcome written
-- outcome is one of
--   ended     acknowledged; what the task settled it has committed
--   written   acknowledged, and its task wrote the messages with these ids just now: as ended after
--             a commit of them, when no earlier call for any of them was in doubt
--   settled   acknowledged, and that settles the head (tasks that do not commit)
--   revoked, expired  acknowledged without having run: the head is a dead letter of that reason
--   failed    rejected: a failed attempt
--   released  given back unworked, by a shutdown: no attempt
--   lapsed    the lease ran out (any token): a failed attempt
-- Returns {state} or, with a dead letter, {state, its id, its trace}; state is
--   lost (the token does not hold the lease, or a lapsed lease is alive: nothing changed),
--   idle, ready, sleeping, paused (as the session is now) or dead (the head has failed too often).
--
-- Nothing in flight: the next head is promoted. Something, and its task asked to be tried again
-- later (a retry, postpone): sleep until then. Something, with progress under this token: ready at
-- once. Otherwise it was a failed attempt.

local name, token, outcome, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now = now_ms()
local holder, wake, progress, intent, noted, lines, highest, watched, is_paused = unpack(
  redis.call('HMGET', SESSION, 'token', 'wake', 'progress', 'intent', 'noted', 'trace', 'written',
    'watched', 'paused'))
paused = is_paused
if outcome == 'lapsed' then
  local expiry = redis.call('ZSCORE', LEASES, name)
  if not expiry or tonumber(expiry) > now then return {'lost'} end
elseif holder ~= token then
  return {'lost'}
end

local head, settled
local state, given_up

-- Take the head out: it is settled, or given up.
local function drop_head()
  redis.call('LPOP', INFLIGHT)
  local number = head.number
  head = head_of(INFLIGHT)
  if head then set_lag(name, head) end
  resolve_intent(intent, head and head.number or number + 1)
end

-- Take what is written from the front, and find the head.
local function settle_written()
  local done, ids, sinces, last = {}, {}, {}, nil
  for i = 9, #ARGV do done[ARGV[i]] = true end
  for _, text in ipairs(redis.call('LRANGE', INFLIGHT, 0, #ARGV - 8)) do   -- one more than written
    local item = parse(text)
    if not done[item.id] then
      head = item
      break
    end
    ids[#ids + 1], sinces[#sinces + 1], last = item.id, item.since, item.number
  end
  if not last then return end
  redis.call('LTRIM', INFLIGHT, #ids, -1)
  forget(ids)
  count_written(sinces, now)
  redis.call('HSET', SESSION, 'written', ms(math.max(last, tonumber(highest or '0'))))
  progress, settled = true, true
  if head then set_lag(name, head) end
  if resolve_intent(intent, head and head.number or last + 1) then answer_intent(intent) end
end

if outcome == 'written' then
  settle_written()
else
  head = head_of(INFLIGHT)
end
if head and head.id == id and not wake
    and (outcome == 'settled' or outcome == 'revoked' or outcome == 'expired') then
  if outcome == 'settled' then
    forget({id})
    count_written({head.since}, now)
    redis.call('HSET', SESSION, 'written', ms(math.max(head.number, tonumber(highest or '0'))))
  else
    allow_full_memory()
    given_up = {head.id, lines or ''}
    bury(name, head, outcome, '', lines)
  end
  progress, settled = true, true
  drop_head()
end

redis.call('ZREM', LEASES, name)
local sleeps = wake and head and outcome ~= 'lapsed'
local over = {}
if settled or not head then
  over = {'attempts', 'most', 'tries', 'trace'}
elseif sleeps then   -- its task has decided: only failures in a row count, and its most stands
  over = {'attempts'}
elseif progress then
  over = {'attempts', 'most'}
end
redis.call('HDEL', SESSION, 'token', 'worker', 'wake', 'progress', 'noted', 'admitted', unpack(over))

if not head then
  state = move_on(name, now)
elseif sleeps then
  state = sleep_until(name, tonumber(wake))
elseif progress or outcome == 'released' then
  state = make_ready(name)
else
  local attempts = redis.call('HINCRBY', SESSION, 'attempts', 1)
  count('failed')
  if not noted then   -- its task, or whoever ran it, came to no word
    trace(string.format('attempt %d %s', attempts,
      outcome == 'lapsed' and 'lost its lease'
      or outcome == 'failed' and 'was rejected' or 'settled nothing'), now)
  end
  if attempts >= tonumber(ARGV[8]) then
    given_up = {head.id, redis.call('HGET', SESSION, 'trace') or ''}
    bury(name, head, 'attempts', '', given_up[2])
    redis.call('HDEL', SESSION, 'attempts', 'most', 'tries', 'trace')
    drop_head()
    if head then make_ready(name) else move_on(name, now) end
    state = 'dead'
  elseif outcome == 'lapsed' then
    state = make_ready(name)
  else
    local wait = math.min(tonumber(ARGV[5]) * 2 ^ (attempts - 1), tonumber(ARGV[6]))
    state = sleep_until(name, now + wait * (0.5 + tonumber(ARGV[7]) / 2))
  end
end

if settled or given_up then announce(watched) end

if given_up then return {state, unpack(given_up)} end
return {state}
