-- progress: how far a session is and, if asked to, have its being settled announced.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 the number up to which the caller waits: common.lua says how that is announced
--       (0: up to the newest; '': it does not wait, and nothing is changed)
-- Returns {state, accepted, number of the oldest unsettled message or -1, in flight, waiting,
--   backlog, wake time or -1, attempts, now, when the oldest unsettled message was accepted or became
--   due or -1, when any worker last looked after the sessions or -1, until when an earlier call may
--   land (0: none can), sessions that are ready before this one, the trace of the head}, times in ms

local state, accepted, attempts, intent, lines, watched = unpack(redis.call('HMGET', SESSION,
  'state', 'accepted', 'attempts', 'intent', 'trace', 'watched'))
local head = head_of(INFLIGHT) or next_head()
local target = tonumber(ARGV[2])
-- A field that is no number counts as none: whoever looks sees the rest, and check says so.
accepted = tonumber(accepted or '0') or 0
if target == 0 then target = accepted end
-- Of two that wait the first is told, and the other looks again.
if target and state and head and head.number <= target
    and (not watched or tonumber(watched) > target) then
  allow_full_memory()
  redis.call('HSET', SESSION, 'watched', ms(target))
end
local lands = intent and select(3, parts_of(intent)) or 0
return {state or 'idle', accepted, head and head.number or -1,
  redis.call('LLEN', INFLIGHT), redis.call('LLEN', WAITING), redis.call('LLEN', BACKLOG),
  tonumber(redis.call('ZSCORE', SLEEPING, ARGV[1]) or '-1'), tonumber(attempts or '0') or 0, now_ms(),
  head and head.since or -1, tonumber(redis.call('HGET', META, 'swept_at') or '-1'), lands,
  state == 'ready' and redis.call('ZRANK', READY, ARGV[1]) or 0, lines or ''}
