-- check: all that Redis holds of one session, without a word of its messages. Changes nothing.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session
-- Returns {now in ms, hash: field, value, …, its time to live in ms as PTTL has it, ids, in flight,
--   backlog, waiting, score in ready, in leases, in sleeping, in paused, in lagging}. An item is
--   returned without its message, and as '' when it cannot be read.

local function outlines(list)
  local found = {}
  for i, text in ipairs(redis.call('LRANGE', list, 0, -1)) do
    found[i] = parse(text).number and string.match(text, '^(%S+ %S+ %S+ %S+ %S+ )') or ''
  end
  return found
end

return {now_ms(), redis.call('HGETALL', SESSION), redis.call('PTTL', SESSION),
  redis.call('SMEMBERS', IDS), outlines(INFLIGHT), outlines(BACKLOG), outlines(WAITING),
  redis.call('ZSCORE', READY, ARGV[1]), redis.call('ZSCORE', LEASES, ARGV[1]),
  redis.call('ZSCORE', SLEEPING, ARGV[1]), redis.call('ZSCORE', PAUSED, ARGV[1]),
  redis.call('ZSCORE', LAGGING, ARGV[1])}
