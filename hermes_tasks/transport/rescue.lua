-- rescue: find what needs help. Run by every worker, done by the first in each interval.
--
-- KEYS  1 ready (sorted set: session -> run-queue number)  2 leases  3 sleeping
--       4 run (list)  5 meta (hash)
-- ARGV  1 interval, ms  2 grace, ms  3 most sessions of each sort
-- Returns {sessions whose lease ran out, sleepers that are due, number of sessions queued again},
--   empty lists when another worker looked within the interval.
--
-- A session popped by a worker that died before its claim is still ready, with a number lower
-- than every entry of the run queue. The mark is the oldest entry's number (the next number when
-- the queue is empty); what is below a mark older than the grace was popped, and is queued again.
-- Numbers, not times, because a step of the clock must not lose a session.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function ms(t) return string.format('%.0f', t) end

local swept, number, mark, marked =
  unpack(redis.call('HMGET', KEYS[5], 'swept_at', 'number', 'mark', 'mark_at'))
swept, marked = tonumber(swept), tonumber(marked)
if swept and swept <= now and now - swept < tonumber(ARGV[1]) then return {{}, {}, 0} end
redis.call('PERSIST', KEYS[5])   -- allow_full_memory of common.lua
redis.call('HSET', KEYS[5], 'swept_at', ms(now))

local queued = 0
if not marked or marked > now or now - marked >= tonumber(ARGV[2]) then
  if marked and marked <= now then
    local lost = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. mark, 'LIMIT', 0, ARGV[3])
    for _, name in ipairs(lost) do
      number = redis.call('HINCRBY', KEYS[5], 'number', 1)
      redis.call('ZADD', KEYS[1], number, name)
      redis.call('LPUSH', KEYS[4], cjson.encode({ms(number), name}))
    end
    queued = #lost
  end
  local entry = redis.call('LINDEX', KEYS[4], -1)
  local good, oldest = pcall(cjson.decode, entry or '')
  oldest = good and type(oldest) == 'table' and tonumber(oldest[1])
  if not oldest then   -- of a foreign entry nothing is known; the mark it blocks stays
    oldest = entry and tonumber(mark or '0') or tonumber(number or '0') + 1
  end
  redis.call('HSET', KEYS[5], 'mark', ms(oldest), 'mark_at', ms(now))
end
return {
  redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ms(now), 'LIMIT', 0, ARGV[3]),
  redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ms(now), 'LIMIT', 0, ARGV[3]),
  queued}
