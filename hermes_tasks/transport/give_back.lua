-- give_back: put a popped entry back where it was, as the oldest of the run queue.
--
-- KEYS  1 run (list)  2 meta (hash)
-- ARGV  1 the entry
-- Returns the length of the run queue.

redis.call('PERSIST', KEYS[2])   -- allow_full_memory of common.lua
return redis.call('RPUSH', KEYS[1], ARGV[1])
