-- epoch: note which Redis process answers. Another one than before may have forgotten its last
-- second, so every claim on a session of an earlier epoch is treated as one that may have written.
-- Before the first that is ever noted nobody had called, and nothing is in doubt.
--
-- KEYS  1 meta (hash)
-- ARGV  1 the server's run id  2 that of the process which the caller knew before, or ''
-- Returns the epoch now in force.

local known, epoch = unpack(redis.call('HMGET', KEYS[1], 'run_id', 'epoch'))
-- A process that has forgotten everything knows of none before; the caller does.
local another = known and known ~= ARGV[1] or (not epoch and (ARGV[2] or '') ~= '')
if known == ARGV[1] and not another then return tonumber(epoch or '0') end
redis.call('PERSIST', KEYS[1])   -- allow_full_memory of common.lua
redis.call('HSET', KEYS[1], 'run_id', ARGV[1])
if not another then return tonumber(epoch or '0') end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'epoch_at',
  string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)))
return redis.call('HINCRBY', KEYS[1], 'epoch', 1)
