-- exchange: end a claim, and take what is next: all that a worker asks between two batches.
--
-- What complete.lua and claim.lua do stands in front of this as functions of these names.
--
-- KEYS  the session keys (common.lua) of the claim that ends; with a reserved entry, the first five
--       of its session; then the lists of other queues the worker consumes
-- ARGV  1 entries of the run queue above which one is reserved; '': none is
--       2 '1': all slots of the worker were taken, so that it waits for no entry of the run queue
--       3 how many arguments complete has  4… these
--       after them those of claim for the reserved entry, if there is one
-- Returns {what complete returns, what claim returns or {}, an entry to be claimed or false,
--   a reserved entry or false}
--
-- A worker can name the keys of a session only when it knows the session. So, while there is plenty
-- on the run queue, an entry is popped ahead, which the next call claims; whoever reserves one gives
-- it back soon if there is no such call, and if he dies, rescue queues it again. While other workers
-- might want for work nothing is reserved, nor by one that is slow.
--
-- Where nothing was on the run queue, others may wait for it: then the session that ends here is
-- theirs if it has more, unless the worker has no other slot to get it by.
--
-- Nothing is popped while another of the worker's queues holds messages: those have their turn first,
-- and what was reserved goes back.

local arguments = tonumber(ARGV[3])
local spare = ARGV[2] == '1' or redis.call('LLEN', RUN) > 0
local ended = complete(KEYS, {unpack(ARGV, 4, 3 + arguments)})
local next_one = {unpack(ARGV, 4 + arguments)}
local others = SESSION_KEYS + (#next_one > 0 and 5 or 0)

if #KEYS > others and redis.call('EXISTS', unpack(KEYS, others + 1)) > 0 then
  if #next_one > 0 then
    allow_full_memory()   -- a claim that was lost has written nothing
    redis.call('RPUSH', RUN, cjson.encode({next_one[2], next_one[1]}))
  end
  return {ended, {}, false, false}
end

local claimed = {}
if #next_one > 0 then
  SESSION, INFLIGHT, WAITING, BACKLOG, IDS = unpack(KEYS, SESSION_KEYS + 1, SESSION_KEYS + 5)
  paused = false   -- that was the other
  claimed = claim(KEYS, next_one)
end
local entry = spare and #claimed == 0 and redis.call('RPOP', RUN)
local plenty = tonumber(ARGV[1])
local reserved = plenty and redis.call('LLEN', RUN) > plenty and redis.call('RPOP', RUN)
return {ended, claimed, entry, reserved or false}
