"""Rules of the session scripts, each undone."""

from __future__ import annotations

from tests.integration.editing import Edits

#: What is undone, and in which script. The invariants must notice each, without the model.
BROKEN: dict[str, Edits] = {
    "a retry is known by its id, not by its token": {
        "push": [
            (
                "redis.call('HGET', SESSION, 'token') ~= token then\n    count('stale')",
                "false then\n    count('stale')",
            ),
            (
                "if token ~= '' then",
                "if token ~= '' and parse(redis.call('LINDEX', INFLIGHT, 0) or '').id == id then",
            ),
        ]
    },
    "the bound is one too late": {"push": [("> tonumber(ARGV[8])", "> tonumber(ARGV[8]) + 1")]},
    "the newest overflows, not the oldest": {
        "push": [("redis.call('LPOP', WAITING)", "redis.call('RPOP', WAITING)")]
    },
    "the backlog is given up from its tail": {
        "push": [("redis.call('LPOP', BACKLOG)", "redis.call('RPOP', BACKLOG)")]
    },
    "a claim takes from waiting before the backlog": {
        "claim": [("ipairs({BACKLOG, WAITING})", "ipairs({WAITING, BACKLOG})")]
    },
    "a claim forgets the call before": {
        "claim": [("now, intent or '', forgotten", "now, '', forgotten")]
    },
    "a claim trusts what a rolled back Redis says": {
        "claim": [("if known ~= epoch then", "if false then")]
    },
    "what a rolled back Redis forgot cannot land any more": {
        "claim": [("tonumber(accepted), forgotten)", "tonumber(accepted), 0)")]
    },
    "a call that is given up cannot land any more": {"begin": [("now + tonumber(ARGV[4])", "now")]},
    "a retry of the head forgets that the call before carried more": {
        "common": [
            (
                "first, last = math.min(first, earlier_first), math.max(last, earlier_last)",
                "local _ = {earlier_first, earlier_last}",
            )
        ]
    },
    "a call that ended somehow was answered": {"postpone": [("ARGV[6] == '0'", "true")]},
    "a dead letter ends what is in doubt": {"commit": [("ARGV[5] == '0'", "true")]},
    "an answer to a question is one to the call before it": {
        "commit": [("intent and how == 'written'", "intent")]
    },
    "the questions before a call count after it": {
        "common": [
            (
                "lands, asked or 0)",
                "lands, asked or intent and select(4, parts_of(intent)) or 0)",
            )
        ]
    },
    "wait does not ask for the token": {
        "wait": [("~= ARGV[2] then return 0", "== '' then return 0")]
    },
    "a session wakes before the call has landed": {
        "wait": [("sleep_until(ARGV[1], lands)", "sleep_until(ARGV[1], lands - 1000)")]
    },
    "what an acknowledgement settles is not noted as written": {
        "complete": [("'written', ms(math.max(last", "'w', ms(math.max(last")]
    },
    "begin does not ask for the token": {
        "begin": [("~= ARGV[2] then return 0", "== '' then return 0")]
    },
    "commit does not ask for the token": {
        "commit": [("~= ARGV[2] then return -1", "== '' then return -1")]
    },
    "complete does not ask for the token": {
        "complete": [("~= token then\n  return {'lost'}", "== '' then\n  return {'lost'}")]
    },
    "a settled message leaves its id behind": {
        "common": [("redis.call('SREM', IDS, ", "redis.call('SREM', 'nothing', ")]
    },
    "an idle session is kept for ever": {
        "common": [("redis.call('PEXPIRE', SESSION, REMEMBER_MS)", "")]
    },
    "the lease outlives the claim": {"complete": [("redis.call('ZREM', LEASES, name)", "")]},
    "a woken session is not queued": {"wake": [("make_ready(ARGV[1])", "")]},
    "what was popped and never claimed stays away": {
        "rescue": [("for _, name in ipairs(lost) do", "for _, name in ipairs({}) do")]
    },
    "a purge keeps the ids": {"purge": [("redis.call('LRANGE', list, 0, -1)", "{}")]},
    "any entry gives the session, whoever has it": {
        "claim": [("state ~= 'ready' or number", "not state or number")]
    },
    "postpone does not ask for the token": {
        "postpone": [("~= ARGV[2] then return 0", "== '' then return 0")]
    },
    "note does not ask for the token": {
        "note": [("~= ARGV[2] then return 0", "== '' then return 0")]
    },
    "a push queues a session that is held": {
        "push": [
            ("if not state then\n  move_on", "if not state or state == 'held' then\n  move_on")
        ]
    },
    "a held session keeps its lease": {
        "common": [("  redis.call('ZREM', LEASES, name)\nend", "end")]
    },
    "a session is held, and its task has it as well": {
        "common": [("'HDEL', SESSION, 'token', 'worker'", "'HDEL', SESSION, 'worker'")]
    },
    "an acknowledgement ends what is held": {
        "complete": [("elseif holder ~= token then", "elseif holder and holder ~= token then")]
    },
    "a retry forgets when its message was accepted": {
        "push": [("item(head.number, head.since)", "item(head.number, now)")]
    },
    "who waits is not told of what is written": {
        "commit": [("announce(watched)\nif head_settled", "if head_settled")]
    },
    "who waits is not told of an overflow": {"push": [("    announce(watched)\n", "")]},
    "who waits is told too early": {"common": [("head.number <= tonumber(watched)", "false")]},
    "who waits for less is not told": {
        "progress": [("(not watched or tonumber(watched) > target)", "not watched")]
    },
    "a session that moves on lags as before": {
        "common": [("  set_lag(name, head)\n  return head", "  return head")]
    },
    "after an overflow a session lags as before": {"push": [("    refresh_lag(name)\n", "")]},
    "a backlog is counted and not worked off": {
        "claim": [("count('backlog', -#taken)", "count('backlog', 0)")]
    },
    "an exchange claims the next session under the keys of the one that ends": {
        "exchange": [
            (
                "unpack(KEYS, SESSION_KEYS + 1, SESSION_KEYS + 5)",
                "unpack(KEYS)",
            )
        ]
    },
    "an exchange reserves an entry though others want for work": {
        "exchange": [("plenty and redis.call('LLEN', RUN) > plenty", "true")]
    },
    "an exchange keeps a session from those who wait for one": {
        "exchange": [("ARGV[2] == '1'", "true")]
    },
    "an exchange takes an entry though it has claimed the reserved one": {
        "exchange": [("spare and #claimed == 0 and", "spare and")]
    },
    "a session with work is forgotten after a day": {
        "push": [("  redis.call('PERSIST', SESSION)\n", "")]
    },
}


#: The same of what an operator does.
BROKEN_FOR_OPERATORS: dict[str, Edits] = {
    "a claim that ends queues a session that is paused": {
        "complete": [("paused = is_paused", "local _ = is_paused")]
    },
    "a paused session goes to sleep": {"common": [("if paused then return park(time) end", "")]},
    "a held session goes on though it is paused": {
        "common": [("  paused = is_paused\n", "  local _ = is_paused\n")]
    },
    "an exchange takes the next session for paused because the one that ends is": {
        "exchange": [("paused = false", "")]
    },
    "a pause without work is forgotten after a day": {
        "pause": [("  redis.call('PERSIST', SESSION)\n", "")]
    },
    "a drop takes what a worker has": {"drop": [("is_leased and {BACKLOG, WAITING} or {", "{")]},
    "a session is roused before the call has landed": {
        "rouse": [("if lands > wake then", "if false then")]
    },
}
