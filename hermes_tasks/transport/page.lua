-- page: the sessions of a sorted set from a place on, lowest score first. Changes nothing.
--
-- KEYS  1 sorted set
-- ARGV  1 most sessions  2 score of the last one seen before  3 that one ('' '': from the first on)
-- Returns {session, score, …}
--
-- The place is a score and a name, so what is added or taken out meanwhile moves no other session over
-- a page's edge: sessions of one score are in the order of their bytes.

-- Whether a comes before b. The < of Lua asks for the order of some language.
local function is_before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local from = 0
if ARGV[2] ~= '' then
  local low = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[2])
  local high = redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[2])
  while low < high do   -- the first of that score that comes behind the name
    local middle = math.floor((low + high) / 2)
    if is_before(ARGV[3], redis.call('ZRANGE', KEYS[1], middle, middle)[1]) then
      high = middle
    else
      low = middle + 1
    end
  end
  from = low
end
return redis.call('ZRANGE', KEYS[1], from, from + tonumber(ARGV[1]) - 1, 'WITHSCORES')
