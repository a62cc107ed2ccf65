"""Every name the transport gives to something in Redis or to a queue, in one place.

All keys share the hash tag ``{prefix}``: one slot, one ACL pattern.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from urllib.parse import quote, unquote

DEFAULT_PREFIX = "hermes"

#: The keys of a session besides its hash: each the hash's name, a colon, and one of these.
PARTS = ("inflight", "waiting", "backlog", "ids")

#: The keys of a gate besides its hash, and the set of gates that all of them share.
GATE_PARTS = (
    "held",
    "calls",
    "permits",
    *(f"samples:{most}{order}" for most in (4, 20, 100) for order in ("", ":ranked")),
)


@dataclass(frozen=True)
class Names:
    """The names of one deployment.

    Attributes:
        prefix: the deployment's name; two prefixes share a Redis without meeting.
        global_keyprefix: Kombu's option of that name, put in front of every key. Scripts get
            whole keys, because Kombu's prefixing client rewrites only the first key of a script.
    """

    prefix: str = DEFAULT_PREFIX
    global_keyprefix: str = ""

    @cached_property
    def queue_prefix(self) -> str:
        """What the name of every session queue begins with."""
        return f"{self.prefix}.session."

    @cached_property
    def run_queue(self) -> str:
        """The one Celery queue that workers consume, without ``global_keyprefix``."""
        return f"{{{self.prefix}}}.run"

    def queue(self, session: str) -> str:
        """The name of a session's queue."""
        return self.queue_prefix + session

    def session_of(self, queue: str) -> str | None:
        """The session of a queue name, or ``None`` for a queue that is not a session's."""
        return queue[len(self.queue_prefix) :] if queue.startswith(self.queue_prefix) else None

    def key(self, *parts: str) -> str:
        """A key of this deployment: ``{prefix}:part:part``."""
        return ":".join((f"{self.global_keyprefix}{{{self.prefix}}}", *parts))

    @cached_property
    def run(self) -> str:
        """The run queue's list."""
        return self.global_keyprefix + self.run_queue

    @cached_property
    def ready(self) -> str:
        return self.key("ready")

    @cached_property
    def leases(self) -> str:
        return self.key("leases")

    @cached_property
    def sleeping(self) -> str:
        return self.key("sleeping")

    @cached_property
    def meta(self) -> str:
        return self.key("meta")

    @cached_property
    def dead(self) -> str:
        return self.key("dead")

    @cached_property
    def stats(self) -> str:
        return self.key("stats")

    @cached_property
    def lagging(self) -> str:
        """Every session that has messages, by the age of its oldest."""
        return self.key("lagging")

    @cached_property
    def paused(self) -> str:
        """Sessions that are not queued until somebody resumes them."""
        return self.key("paused")

    @cached_property
    def workers(self) -> str:
        """What each worker last said of itself."""
        return self.key("workers")

    @cached_property
    def gateways(self) -> str:
        """What each gateway last said of itself."""
        return self.key("gateways")

    @cached_property
    def history(self) -> str:
        """How the deployment was in the last hour."""
        return self.key("history")

    @cached_property
    def _shared(self) -> tuple[str, ...]:
        return (
            self.ready,
            self.leases,
            self.sleeping,
            self.run,
            self.meta,
            self.dead,
            self.stats,
            self.lagging,
            self.paused,
        )

    @lru_cache(maxsize=4096)  # noqa: B019 - there are few Names, and they live as long as we do
    def session(self, session: str) -> tuple[str, ...]:
        """The keys of every session script, in the order ``common.lua`` gives."""
        base = self.key("session", _unmistakable(session))
        return (base, *(f"{base}:{part}" for part in PARTS), *self._shared)

    def own(self, session: str) -> tuple[str, ...]:
        """The first of them: those that are this session's alone."""
        return self.session(session)[: 1 + len(PARTS)]

    def channel(self, session: str) -> str:
        """The channel on which it is announced that messages of a session are settled."""
        return self.session(session)[0]

    def session_of_key(self, key: str) -> str | None:
        """The session whose hash, or one of its parts, has this key; ``None`` for other keys."""
        found = self._named("session", key)
        if not found:
            return None
        base, colon, part = found.rpartition(":")
        return unquote(base if colon and part in PARTS else found)

    def gate_of_key(self, key: str) -> str | None:
        """The gate whose hash, or one of its parts, has this key; ``None`` for other keys."""
        found = self._named("gate", key)
        first, colon, rest = found.partition(":")
        return f"{unquote(first)}:{unquote(rest.partition(':')[0])}" if colon else None

    def every(self, sort: str) -> str:
        """The pattern of all keys of a sort, ``session`` or ``gate``, for ``SCAN``."""
        return re.sub(r"([\\\[\]*?^])", r"\\\1", self.key(sort, "")) + "*"

    def _named(self, sort: str, key: str) -> str:
        """What a key of this sort says after the sort; ``""`` for other keys."""
        start = self.key(sort, "")
        return key[len(start) :] if key.startswith(start) else ""

    @cached_property
    def gates(self) -> str:
        """Every gate, and which of them hold sessions."""
        return self.key("gates")

    @lru_cache(maxsize=256)  # noqa: B019 - as above
    def gate(self, gate: str) -> tuple[str, ...]:
        """The eleven keys of a gate, in the order ``gate.lua`` gives: a gate shares its slot.

        Args:
            gate: its name. Keys show a colon as it is only between what it is made of, so no
                gate's hash meets another's parts.
        """
        first, _, rest = gate.partition(":")
        base = self.key("gate", f"{quote(first, safe='')}:{quote(rest, safe='')}")
        held, calls, permits, *samples = (f"{base}:{part}" for part in GATE_PARTS)
        return (base, held, calls, permits, self.gates, *samples)


def _unmistakable(session: str) -> str:
    """A session's name for keys: a session ``a:ids`` must not meet the ids of a session ``a``."""
    quoted = quote(session, safe=":")
    name, colon, last = quoted.rpartition(":")
    return f"{name}%3A{last}" if colon and last in PARTS else quoted
