-- report: note how full the outbox of a gateway is, and count what it had to drop.
--
-- KEYS  1 gateways (hash: gateway -> "<ms> <rows> <dropped>")  2 stats (hash)
-- ARGV  1 gateway  2 rows that Redis has not accepted  3 rows it has dropped in its life
--       4 age of reports that are forgotten, ms  5… gateways that are dead, and whose rows it has
-- Returns 1. What was dropped is counted once, however often it is reported.

redis.call('PERSIST', KEYS[2])   -- allow_full_memory of common.lua
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local before = redis.call('HGET', KEYS[1], ARGV[1])
local dropped = tonumber(ARGV[3]) - (tonumber(string.match(before or '', '^%d+ %d+ (%d+)$')) or 0)
if dropped > 0 then redis.call('HINCRBY', KEYS[2], 'outbox_dropped', dropped) end
redis.call('HSET', KEYS[1], ARGV[1],
  table.concat({string.format('%.0f', now), ARGV[2], ARGV[3]}, ' '))
if #ARGV > 4 then redis.call('HDEL', KEYS[1], unpack(ARGV, 5)) end
if not before then   -- it is new: a good moment to look at the others
  local reports = redis.call('HGETALL', KEYS[1])
  for i = 1, #reports, 2 do
    local at = tonumber(string.match(reports[i + 1], '^%d+')) or 0
    if now - at > tonumber(ARGV[4]) then redis.call('HDEL', KEYS[1], reports[i]) end
  end
end
return 1
