-- history: keep a sample of the deployment, unless one was kept within the interval.
--
-- KEYS  1 history (list, newest on the left)  2 meta (hash)
-- ARGV  1 interval, ms  2 most samples  3 the sample, or '' to ask whether one is due
-- Returns 1 if it was kept, or would be; else 0.
--
-- To take a sample costs more than to ask, so each worker asks first. Of two that were told the same
-- the second is told 0.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local kept = tonumber(redis.call('HGET', KEYS[2], 'sampled_at'))
if kept and kept <= now and now - kept < tonumber(ARGV[1]) then return 0 end
if ARGV[3] ~= '' then
  redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[2]) - 2)   -- first: allowed with memory full
  redis.call('LPUSH', KEYS[1], ARGV[3])
  redis.call('HSET', KEYS[2], 'sampled_at', string.format('%.0f', now))
end
return 1
