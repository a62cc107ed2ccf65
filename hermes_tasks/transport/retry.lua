-- retry: put dead letters of one session back into its queue.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 waiting's bound  3 backlog's bound
--       4 ms after its start in which a call may land
--       5… for each letter, lowest number first: its entry, and the message to queue instead of the
--       one it has, or ''
-- Returns for each letter {answer, number in the session, ms until it may be written}, answer one of
--   front      at its old place, before everything that was accepted after it
--   end        behind everything, with a new number: something later is written, or may be
--   duplicate  its id is queued already: the letter stays
--   full       the session has no room: the letter stays
--   doubt      a call that carried it may land yet, and a worker has the session: the letter stays
--   gone       there is no such letter of this session
--
-- What is put back is in doubt: it is asked about before it is written. Nothing is given up for it.

local name, bound, backlog_bound = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local state, accepted, written, intent, buried, known =
  unpack(redis.call('HMGET', SESSION, 'state', 'accepted', 'written', 'intent', 'buried', 'epoch'))
local epoch, epoch_at = unpack(redis.call('HMGET', META, 'epoch', 'epoch_at'))

-- The highest number that is written, or may be.
local reached = tonumber(written or '0')
if intent then
  local _, last = parts_of(intent)
  reached = math.max(reached, last)
end
if state == 'leased' then
  local last = redis.call('LINDEX', INFLIGHT, -1)
  if last then reached = math.max(reached, parse(last).number) end
end
if epoch_at and known ~= epoch then reached = tonumber(accepted or '0') end
-- Until when a call may land that Redis knows nothing of any more: the letter was retried before.
local forgotten = math.min(tonumber(epoch_at or '0'), now) + tonumber(ARGV[4])

-- Whether the numbers of the session are those of when this letter was buried.
local function is_of_these(entry)
  if not buried then return false end
  local ms_a, n_a = string.match(entry, '^(%d+)%-(%d+)$')
  local ms_b, n_b = string.match(buried, '^(%d+)%-(%d+)$')
  ms_a, ms_b = tonumber(ms_a), tonumber(ms_b)
  return ms_a > ms_b or ms_a == ms_b and tonumber(n_a) >= tonumber(n_b)
end

-- Put an item before the first with a higher number.
local function insert(number, text)
  for _, list in ipairs({INFLIGHT, BACKLOG, WAITING}) do
    for i, other in ipairs(redis.call('LRANGE', list, 0, -1)) do
      if parse(other).number > number then
        redis.call('LINSERT', list, 'BEFORE', other, text)
        if list == BACKLOG then count('backlog') end
        if i == 1 and list == INFLIGHT then   -- another is the head now
          redis.call('HDEL', SESSION, 'attempts', 'most', 'tries', 'trace')
        end
        return
      end
    end
  end
  redis.call('RPUSH', WAITING, text)
end

-- Backlog, then waiting are one queue: keep both within their bounds.
local function balance()
  if redis.call('LLEN', WAITING) > bound then
    redis.call('RPUSH', BACKLOG, redis.call('LPOP', WAITING))
    count('backlog')
  end
  if redis.call('LLEN', BACKLOG) > backlog_bound then
    redis.call('LPUSH', WAITING, redis.call('RPOP', BACKLOG))
    count('backlog', -1)
  end
end

local put_back = {}

local function put(entry, message)
  local found = redis.call('XREVRANGE', DEAD, entry, entry)[1]
  local letter = {}
  for i = 1, found and #found[2] or 0, 2 do letter[found[2][i]] = found[2][i + 1] end
  if letter.session ~= name or not letter.id or not letter.message then return {'gone', 0, 0} end
  if redis.call('SISMEMBER', IDS, letter.id) == 1 then return {'duplicate', 0, 0} end
  if redis.call('LLEN', INFLIGHT) + redis.call('LLEN', BACKLOG) + redis.call('LLEN', WAITING)
      >= bound + backlog_bound then
    return {'full', 0, 0}
  end
  local lands = tonumber(letter.lands or '0') or 0
  if forgotten > now then lands = math.max(lands, forgotten) end
  local wait = math.max(0, lands - now)
  -- The worker's own calls would end the doubt about this one.
  if wait > 0 and state == 'leased' then return {'doubt', 0, wait} end

  local number, answer = tonumber(letter.number or '') or 0, 'front'
  if number > reached and is_of_these(entry) then
    redis.call('HINCRBY', SESSION, 'settled', -1)   -- refused if memory is full
  else
    answer = 'end'
    number = redis.call('HINCRBY', SESSION, 'accepted', 1)
  end
  redis.call('SADD', IDS, letter.id)
  -- A letter that an older version has buried does not say its size and kind: it goes alone.
  insert(number, table.concat({ms(number), letter.id, letter.size or '1', letter.kind or '-', ms(now),
    message ~= '' and message or letter.message}, ' '))
  balance()
  intent = record_intent(intent, number, number, lands)
  redis.call('XDEL', DEAD, entry)
  count('dead_retried')
  put_back[number] = true
  return {answer, number, wait}
end

local answers = {}
for i = 5, #ARGV, 2 do answers[#answers + 1] = put(ARGV[i], ARGV[i + 1]) end

local head = head_of(INFLIGHT) or next_head()
if head and put_back[head.number] then
  if not state then
    redis.call('PERSIST', SESSION)
    redis.call('HSET', SESSION, 'epoch', epoch or '0')
    move_on(name, now)
  elseif state == 'sleeping' then   -- what it slept for was another head's
    redis.call('ZREM', SLEEPING, name)
    make_ready(name)
  elseif state == 'paused' then
    redis.call('HDEL', SESSION, 'due')
  end
  set_lag(name, head)
end
return answers
