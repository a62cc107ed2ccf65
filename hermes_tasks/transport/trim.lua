-- trim: drop the dead letters above an age.
--
-- KEYS  1 dead (stream)  2 stats (hash)
-- ARGV  1 the age, ms  2 the counter that counts them
-- Returns the number dropped.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local oldest = string.format('%.0f', math.max(0, now - tonumber(ARGV[1])))
local dropped = redis.call('XTRIM', KEYS[1], 'MINID', oldest)
if dropped > 0 then redis.call('HINCRBY', KEYS[2], ARGV[2], dropped) end
return dropped
