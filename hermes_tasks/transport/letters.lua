-- letters: look through the dead letters, newest first. Changes nothing.
--
-- KEYS  1 dead (stream)
-- ARGV  1 the entry to begin with, '+' for the newest, or '(' and the last entry looked at before
--       2 most entries to look at  3 session  4 reason  5 message id ('' in these three: any)
-- Returns {the last entry looked at, or '' when there are no more, {entry, {field, value, …}}…}: those
--   that match, without their messages.

local wanted = {session = ARGV[3], reason = ARGV[4], id = ARGV[5]}
local most = tonumber(ARGV[2])
local entries = redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', most)
local found = {#entries == most and entries[most][1] or ''}
for _, entry in ipairs(entries) do
  local fields, matches = {}, true
  for i = 1, #entry[2], 2 do
    local field, value = entry[2][i], entry[2][i + 1]
    if (wanted[field] or '') ~= '' and wanted[field] ~= value then matches = false end
    if field ~= 'message' then
      fields[#fields + 1] = field
      fields[#fields + 1] = value
    end
  end
  if matches then found[#found + 1] = {entry[1], fields} end
end
return found
