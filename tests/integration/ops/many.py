"""A hundred thousand sessions in a second: what as many pushes leave, made by one script."""

from __future__ import annotations

from typing import Any

from hermes_tasks.gate import Gate, Policy
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.scripts import Script

GATE = "default:w"

#: KEYS: those of a session and of its gate, whose names tell all others. ARGV: number of the first
#: session, of the last, ms of the first of all. They are ready, asleep and held in turn, each a
#: millisecond younger than the one before.
FILL = Script("""
local function ms(time) return string.format('%.0f', time) end
local base = string.match(KEYS[1], '^(.*)0$')
local ready, sleeping, run, meta, stats, lagging =
  KEYS[6], KEYS[8], KEYS[9], KEYS[10], KEYS[12], KEYS[13]
local held = KEYS[16]
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local name, since, key = 'default:w:' .. i, ms(tonumber(ARGV[3]) + i), base .. i
  redis.call('HSET', key, 'accepted', 1, 'epoch', 0, 'senders', '- 0 t' .. i)
  redis.call('RPUSH', key .. ':waiting', table.concat({'1 t', i, ' 1 k ', since, ' {}'}))
  redis.call('SADD', key .. ':ids', 't' .. i)
  redis.call('ZADD', lagging, since, name)
  if i % 3 == 0 then
    redis.call('HSET', key, 'state', 'ready', 'since', i)
    redis.call('ZADD', ready, i, name)
    redis.call('LPUSH', run, cjson.encode({ms(i), name}))
  elseif i % 3 == 1 then
    redis.call('HSET', key, 'state', 'sleeping')
    redis.call('ZADD', sleeping, ms(tonumber(ARGV[3]) + 7200000), name)
  else
    redis.call('HSET', key, 'state', 'held')
    redis.call('RPUSH', held, name)
  end
end
redis.call('HSET', meta, 'number', ARGV[2])
redis.call('HINCRBY', stats, 'accepted', tonumber(ARGV[2]) - tonumber(ARGV[1]) + 1)
""")


def fill(store: SessionStore, sessions: int, *, age: float) -> None:
    """Queue one turn in each of so many sessions, the first of them ``age`` seconds ago."""
    now: Any = store.client.time()
    keys = (*store.names.session("default:w:0"), *store.names.gate(GATE))
    for first in range(1, sessions + 1, 10_000):
        last = min(first + 9_999, sessions)
        FILL(store.client, keys, (first, last, int((now[0] - age) * 1000)))
    store.client.zadd(store.names.gates, {GATE: 1})
    Gate(store, Policy(), GATE).open(seconds=3600.0)
