-- overview: how many sessions there are of each sort, how long they lag, and all counters. Changes
-- nothing, and costs the same for any number of sessions.
--
-- KEYS  1 ready  2 leases  3 sleeping  4 paused  5 lagging (sorted sets)  6 dead (stream)
--       7 stats (hash)  8 workers (hash)  9 gateways (hash)
-- ARGV  shares of the sessions, ascending, as 0.95
-- Returns {now in ms, ready, leased, sleeping, paused, lagging, dead letters, counters: field, value, …,
--   workers: field, value, …, gateways: field, value, …, for each share the since that the lag of so
--   many sessions does not exceed, by nearest rank, and the since of the longest lag (none of these
--   without a session that lags)}, a since as lagging has it.

local time = redis.call('TIME')
local answer = {tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)}
for i = 1, 5 do answer[#answer + 1] = redis.call('ZCARD', KEYS[i]) end
answer[#answer + 1] = redis.call('XLEN', KEYS[6])
for i = 7, 9 do answer[#answer + 1] = redis.call('HGETALL', KEYS[i]) end

local lagging = redis.call('ZCARD', KEYS[5])
local ranks = {}
for i, share in ipairs(ARGV) do ranks[i] = math.ceil(lagging * tonumber(share)) end
ranks[#ranks + 1] = lagging
for _, rank in ipairs(lagging > 0 and ranks or {}) do
  -- Of the youngest, the first has the shortest lag.
  answer[#answer + 1] = redis.call('ZRANGE', KEYS[5], rank - 1, rank - 1, 'REV', 'WITHSCORES')[2]
end
return answer
