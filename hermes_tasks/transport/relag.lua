-- relag: put a session at its place among those that lag, or take it out of them.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session
-- Returns {state, messages queued}.

allow_full_memory()
refresh_lag(ARGV[1])
return {redis.call('HGET', SESSION, 'state') or 'idle',
  redis.call('LLEN', INFLIGHT) + redis.call('LLEN', BACKLOG) + redis.call('LLEN', WAITING)}
