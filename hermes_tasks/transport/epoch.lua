-- epoch: note which Redis process answers. A new one may have forgotten its last second, so every
-- claim on a session of an earlier epoch is treated as one that may have written before.
--
-- KEYS  1 meta (hash)
-- ARGV  1 the server's run id
-- Returns the epoch now in force.

if redis.call('HGET', KEYS[1], 'run_id') ~= ARGV[1] then
  redis.call('PERSIST', KEYS[1])   -- allow_full_memory of common.lua
  redis.call('HSET', KEYS[1], 'run_id', ARGV[1])
  return redis.call('HINCRBY', KEYS[1], 'epoch', 1)
end
return tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
