"""Keeps the order of the sessions that lag complete, where not every script has kept it.

All scripts of this version do. A version before it did not: what it had queued is missing, and what
it writes beside workers of this one, during an upgrade, stays. So one worker in each interval looks
whether there are sessions that do not lag although they should, and if so puts all of them at their
place, some at each tick; and it looks at the oldest, where those that are gone collect.
"""

from __future__ import annotations

from collections.abc import Iterator

from hermes_tasks.gate import Policy, read_gates
from hermes_tasks.ops.listing import names_in
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.reading import page_of, read_counts
from hermes_tasks.transport.scripts import run_all, session_script

#: Sessions that are put at their place at once.
AT_ONCE = 200
#: Of the oldest, so many are looked at each time.
OLDEST = 50
#: The states of sessions that have messages, or may.
STATES = ("ready", "leased", "sleeping", "held")


class Index:
    """The order of the sessions that lag, looked after by one worker.

    Args:
        store: the sessions of the deployment.
        policy: of its gates.
    """

    def __init__(self, store: SessionStore, policy: Policy) -> None:
        self._store = store
        self._policy = policy
        self._walk: Iterator[None] | None = None
        self._explained = 0

    def look(self) -> None:
        """See whether it is complete. Once in a while, by one worker of all."""
        oldest, _ = page_of(self._store, self._store.names.lagging, OLDEST)
        self._relag(oldest)
        if self._walk is None and self._missing() > self._explained:
            self._walk = self._all()

    def tick(self) -> None:
        """Put some more sessions at their place, if there are any to be put."""
        if self._walk is not None and next(self._walk, self) is self:
            self._walk = None
            # Sessions without messages, that go idle when they are let go on.
            self._explained = max(0, self._missing())

    def _missing(self) -> int:
        """How many sessions there are more than such that lag."""
        counts, gates = read_counts(self._store), read_gates(self._store, self._policy)
        states = (counts.ready, counts.leased, counts.sleeping, *(gate.held for gate in gates))
        return sum(states) - counts.lagging

    def _all(self) -> Iterator[None]:
        for state in STATES:
            cursor = ""
            while True:
                sessions, cursor = names_in(self._store, state, AT_ONCE, cursor)
                self._relag(sessions)
                yield
                if not cursor:
                    break

    def _relag(self, sessions: list[str]) -> None:
        names = self._store.names
        calls = [(names.session(session), (session,)) for session in sessions]
        run_all(self._store.client, session_script("relag"), calls)
