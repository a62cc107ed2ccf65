-- report: note what a worker says of itself, and forget who has said nothing for long.
--
-- KEYS  1 workers (hash: name -> "<ms> <text>")
-- ARGV  1 name  2 text, '' to forget this one  3 age of reports that are forgotten, ms
-- Returns 1.

redis.call('PERSIST', KEYS[1])   -- allow_full_memory of common.lua
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return 1
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2]) == 1 then
  -- It is new: a good moment to look at the others.
  local reports = redis.call('HGETALL', KEYS[1])
  for i = 1, #reports, 2 do
    local at = tonumber(string.match(reports[i + 1], '^%d+')) or 0
    if now - at > tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], reports[i]) end
  end
end
return 1
