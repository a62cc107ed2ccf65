-- discard: drop dead letters for good. Nothing is kept of them but the count.
--
-- KEYS  1 dead (stream)  2 stats (hash)
-- ARGV  1… entries
-- Returns the number dropped.

local dropped = redis.call('XDEL', KEYS[1], unpack(ARGV))
if dropped > 0 then redis.call('HINCRBY', KEYS[2], 'dead_purged', dropped) end
return dropped
