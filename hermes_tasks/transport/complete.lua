-- complete: end a claim, however it ended, and give the session its next state.
--
-- KEYS  the twelve session keys (common.lua), then the lists of other queues the worker consumes
-- ARGV  1 session  2 token  3 outcome  4 id of the message that was delivered
--       5 first wait after a failed attempt, ms  6 longest wait, ms  7 a random number in [0, 1)
--       8 attempts after which the head is a dead letter  9 1: pop the next run-queue entry
-- outcome is one of
--   ended     acknowledged; what the task settled it has committed
--   settled   acknowledged, and that settles the head (tasks that do not commit)
--   revoked, expired  acknowledged without having run: the head is a dead letter of that reason
--   failed    rejected: a failed attempt
--   released  given back unworked, by a shutdown: no attempt
--   lapsed    the lease ran out (any token): a failed attempt
-- Returns {state} or {state, popped entry}; state is
--   lost (the token does not hold the lease, or a lapsed lease is alive: nothing changed),
--   idle, ready, sleeping (as the session is now) or dead (the head was given up).
--
-- A busy worker asks for the next entry with the same call and spares a BRPOP. Nothing is popped
-- while another of its queues holds messages: those have their turn first.
--
-- Nothing in flight: the next head is promoted. Something, under a retry: sleep until its time.
-- Something, with progress under this token: ready at once. Otherwise it was a failed attempt.

local name, token, outcome, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now = now_ms()
local holder, wake, progress, intent =
  unpack(redis.call('HMGET', SESSION, 'token', 'wake', 'progress', 'intent'))
if outcome == 'lapsed' then
  local expiry = redis.call('ZSCORE', LEASES, name)
  if not expiry or tonumber(expiry) > now then return {'lost'} end
elseif holder ~= token then
  return {'lost'}
end

local head = head_of(INFLIGHT)
if head and head.id == id and not wake
    and (outcome == 'settled' or outcome == 'revoked' or outcome == 'expired') then
  redis.call('LPOP', INFLIGHT)
  if outcome == 'settled' then
    forget({id})
    count('written')
  else
    bury(name, head, outcome)
  end
  progress = true
  head = head_of(INFLIGHT)
  resolve_intent(intent, head)
end

redis.call('ZREM', LEASES, name)
redis.call('HDEL', SESSION, 'token', 'worker', 'wake', 'progress')
if progress or not head then redis.call('HDEL', SESSION, 'attempts', 'solo') end

local state
if not head then
  redis.call('HDEL', SESSION, 'intent')
  state = move_on(name, now)
elseif wake and outcome ~= 'lapsed' then
  redis.call('HDEL', SESSION, 'attempts')   -- its task came to an end: only those in a row count
  redis.call('HSET', SESSION, 'solo', 1)
  state = sleep_until(name, tonumber(wake))
elseif progress or outcome == 'released' then
  state = make_ready(name)
else
  local attempts = redis.call('HINCRBY', SESSION, 'attempts', 1)
  count('failed')
  if attempts >= tonumber(ARGV[8]) then
    redis.call('LPOP', INFLIGHT)
    bury(name, head, 'attempts')
    redis.call('HDEL', SESSION, 'attempts', 'solo')
    head = head_of(INFLIGHT)
    resolve_intent(intent, head)
    if head then make_ready(name) else move_on(name, now) end
    state = 'dead'
  elseif outcome == 'lapsed' then
    state = make_ready(name)
  else
    local wait = math.min(tonumber(ARGV[5]) * 2 ^ (attempts - 1), tonumber(ARGV[6]))
    state = sleep_until(name, now + wait * (0.5 + tonumber(ARGV[7]) / 2))
  end
end

if ARGV[9] == '1' and (#KEYS == 12 or redis.call('EXISTS', unpack(KEYS, 13)) == 0) then
  return {state, redis.call('RPOP', RUN) or nil}
end
return {state}
