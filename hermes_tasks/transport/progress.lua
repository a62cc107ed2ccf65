-- progress: how far a session is. Changes nothing.
--
-- KEYS  the twelve session keys (common.lua)
-- ARGV  1 session
-- Returns {state, accepted, number of the oldest unsettled message or -1, in flight, waiting,
--   backlog, wake time in ms or -1, attempts}

local state, accepted, attempts =
  unpack(redis.call('HMGET', SESSION, 'state', 'accepted', 'attempts'))
local head = head_of(INFLIGHT) or next_head()
return {state or 'idle', tonumber(accepted or '0'), head and head.number or -1,
  redis.call('LLEN', INFLIGHT), redis.call('LLEN', WAITING), redis.call('LLEN', BACKLOG),
  tonumber(redis.call('ZSCORE', SLEEPING, ARGV[1]) or '-1'), tonumber(attempts or '0')}
