-- renew: extend the leases a worker holds.
--
-- KEYS  1 leases (sorted set: session -> expiry, ms)  2… session hashes
-- ARGV  1 lease, ms  then, for each session hash, its session and the token
-- Returns a 1 for each lease extended, a 0 for each that is no longer held by that token.

local time = redis.call('TIME')
local expiry = string.format('%.0f',
  tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1]))
redis.call('PERSIST', KEYS[1])   -- allow_full_memory of common.lua
local held = {}
for i = 2, #KEYS do
  local name, token = ARGV[2 * i - 2], ARGV[2 * i - 1]
  held[i - 1] = redis.call('HGET', KEYS[i], 'token') == token and 1 or 0
  if held[i - 1] == 1 then redis.call('ZADD', KEYS[1], expiry, name) end
end
return held
