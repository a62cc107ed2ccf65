-- close: let calls be made again, whoever stopped them: somebody, or the breaker by itself. The ramp
-- begins anew. A pause that the backend asked for goes on.
--
-- KEYS  the eleven of the gate (gate.lua)
-- ARGV  1 a random number in [0, 1)  2 the policy
-- Returns {what that has done to the breaker: 'closed', or '' if it was, 1 for a probe, sessions to
--   resume…}

roll(tonumber(ARGV[1]))
local news = ''
if state ~= 'closed' then
  enter('closed')
  start_limit(1)
  news = 'closed'
end
local probe, sessions = release()
return {news, probe, unpack(sessions)}
