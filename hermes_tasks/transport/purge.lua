-- purge: drop what waits in a session. What a worker holds is not touched.
--
-- KEYS  the session keys (common.lua)
-- ARGV  1 session
-- Returns the number dropped. Nothing is kept of them but the count: purging is asked for by name.

local name, dropped = ARGV[1], 0
local overflowed = redis.call('LLEN', BACKLOG)
for _, list in ipairs({BACKLOG, WAITING}) do
  for _, text in ipairs(redis.call('LRANGE', list, 0, -1)) do
    forget({parse(text).id})
    dropped = dropped + 1
  end
  redis.call('DEL', list)
end
if dropped > 0 then
  count('purged', dropped)
  if overflowed > 0 then count('backlog', -overflowed) end
  refresh_lag(name)
  announce(redis.call('HGET', SESSION, 'watched'))
end
return dropped
