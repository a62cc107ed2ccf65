-- queued: what is queued in a session, without a word of it, and what is known of its calls. Changes
-- nothing.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session  2 most messages
-- Returns {highest number written, intent as in common.lua or '', worker that has it or '', {list,
--   outline, …}…}: list is inflight, backlog or waiting, an outline an item without its message, or ''
--   if that cannot be read. Oldest first.

local written, intent, worker =
  unpack(redis.call('HMGET', SESSION, 'written', 'intent', 'worker'))
local answer, left = {tonumber(written or '0'), intent or '', worker or ''}, tonumber(ARGV[2])
for _, list in ipairs({{'inflight', INFLIGHT}, {'backlog', BACKLOG}, {'waiting', WAITING}}) do
  local found = {list[1]}
  for _, text in ipairs(left > 0 and redis.call('LRANGE', list[2], 0, left - 1) or {}) do
    left = left - 1
    found[#found + 1] = parse(text).number and string.match(text, '^(%S+ %S+ %S+ %S+ %S+) ') or ''
  end
  answer[#answer + 1] = found
end
return answer
