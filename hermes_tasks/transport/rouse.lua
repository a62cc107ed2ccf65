-- rouse: let a sleeping session go on now, or as soon as it may: a message is never taken before its
-- time, nor asked about again before an earlier call for it has landed or cannot any more.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 ms after its start in which a call may land
-- Returns {its state now, ms until it wakes (-1: it does not sleep), what it sleeps for: 'doubt' (a call
--   that may land), 'delayed' (a message) or ''}

local name, now = ARGV[1], now_ms()
local state, intent, known = unpack(redis.call('HMGET', SESSION, 'state', 'intent', 'epoch'))
if state ~= 'sleeping' then return {state or 'idle', -1, ''} end

local wake, why, head = now, '', head_of(INFLIGHT)
if not head then
  head = next_head()
  if head and head.not_before > wake then wake, why = head.not_before, 'delayed' end
end
-- As in claim: of what was accepted before another Redis process, that may have forgotten a call; and
-- a time further ahead than any that is set now was set before the clock stepped back.
local landing, lands = now + tonumber(ARGV[2]), 0
if head and intent then
  local _, last, until_then = parts_of(intent)
  if head.number <= last then lands = until_then end
end
local epoch, epoch_at = unpack(redis.call('HMGET', META, 'epoch', 'epoch_at'))
if epoch_at and known ~= epoch then
  lands = math.max(lands, tonumber(epoch_at) + tonumber(ARGV[2]))
end
lands = math.min(lands, landing)
if lands > wake then wake, why = lands, 'doubt' end

allow_full_memory()
if wake > now then
  wake = math.min(wake, tonumber(redis.call('ZSCORE', SLEEPING, name) or wake))
  redis.call('ZADD', SLEEPING, ms(wake), name)
  return {state, wake - now, why}
end
redis.call('ZREM', SLEEPING, name)
return {make_ready(name), -1, ''}
