-- claim: turn a popped run-queue entry into a lease on its session, with the batch to work on.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 run-queue number popped  3 fresh token  4 lease, ms  5 worker
--       6 most messages in a batch  7 most size in a batch
--       8 ms after its start in which a call may land
-- Returns {} when there is nothing to take (an entry that is no longer true), otherwise
--   {attempts, tries, now, intent, forgotten, rewritten, item…}: attempts failed, tries were
--   postponed by the task; now is in ms; intent as in common.lua, '' when no call for any of them
--   may have gone out before; forgotten is the ms until which a call may land that Redis knows
--   nothing of any more, 0 if none can; rewritten are ids with a space between them.
--
-- Any number since the session became ready is good: rescue may have queued it twice. Asking
-- again with the token that holds the lease gives the same batch, so a client may repeat the call.

local name, number, token = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local most, most_size = tonumber(ARGV[6]), tonumber(ARGV[7])
local state, since, holder, attempts, bound, tries, intent, known, accepted, rewritten =
  unpack(redis.call('HMGET', SESSION, 'state', 'since', 'token', 'attempts', 'most', 'tries',
    'intent', 'epoch', 'accepted', 'rewritten'))
attempts = tonumber(attempts or '0')

if holder ~= token and (state ~= 'ready' or number < tonumber(since)) then return {} end
redis.call('ZREM', READY, name)   -- the first write, and allowed with memory full
if attempts > 0 then
  most = 1   -- one bad follower must not take the others with it
elseif bound then
  most = math.min(most, tonumber(bound))
end

local now = now_ms()
local batch, size, kind, head = {}, 0, nil, nil

-- Add the next item to the batch if it may share a call with those before it. A fresh one, which
-- no worker had yet, must be due: a purge or an overflow may have made it the head too early.
local function join(text, fresh)
  local item = parse(text)
  if fresh and item.not_before > now then return false end
  if #batch > 0 and (#batch >= most or size + item.size > most_size
      or item.kind ~= kind or kind == '-') then
    return false
  end
  kind, size, head = item.kind, size + item.size, head or item
  batch[#batch + 1] = text
  return true
end

local open = true
for _, text in ipairs(redis.call('LRANGE', INFLIGHT, 0, most)) do   -- one more than fits
  open = open and join(text)
end
for _, source in ipairs({BACKLOG, WAITING}) do
  local taken = {}
  open = open and #batch < most
  for _, text in ipairs(open and redis.call('LRANGE', source, 0, most - 1 - #batch) or {}) do
    open = open and join(text, true)
    if not open then break end
    taken[#taken + 1] = text
  end
  if #taken > 0 then
    redis.call('RPUSH', INFLIGHT, unpack(taken))
    redis.call('LTRIM', source, #taken, -1)
    if source == BACKLOG then count('backlog', -#taken) end
  end
end
if #batch == 0 then
  if holder ~= token then move_on(name, now) end
  return {}
end
if holder == token then set_lag(name, head) end   -- what was in flight may be settled

local landing, forgotten = tonumber(ARGV[8]), 0
intent = resolve_intent(intent, head.number)
if intent then
  -- A time further ahead than any that is set now was set before the clock stepped back.
  local first, last, lands, asked = parts_of(intent)
  if lands > now + landing then intent = set_intent(first, last, now + landing, asked) end
end
local epoch, epoch_at = unpack(redis.call('HMGET', META, 'epoch', 'epoch_at'))
if epoch_at then
  forgotten = math.min(tonumber(epoch_at), now) + landing
  if known ~= epoch then
    -- Of all that was accepted before, Redis may have forgotten a call.
    intent = record_intent(intent, head.number, tonumber(accepted), forgotten)
    redis.call('HSET', SESSION, 'epoch', epoch)
  end
end
if holder == token then redis.call('HDEL', SESSION, 'progress', 'wake', 'noted') end
redis.call('HSET', SESSION, 'state', 'leased', 'token', token, 'worker', ARGV[5])
redis.call('ZADD', LEASES, ms(now + tonumber(ARGV[4])), name)
return {attempts, tonumber(tries or '0'), now, intent or '', forgotten > now and forgotten or 0,
  rewritten or '', unpack(batch)}
