"""Sends a source's turns through the queue and waits until they are written.

The sender never fills a session queue: beyond its bound the oldest turns would overflow to the
backlog and, in the end, be given up. It keeps at most half of the bound in each session, so that
live turns of the same session have room, and reads the source only as fast as turns leave.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar

from hermes_tasks.app import TASK
from hermes_tasks.config import Settings
from hermes_tasks.errors import SourceError, StillSyncing
from hermes_tasks.gateway.link import FAILURES, Link
from hermes_tasks.replay.sources import Source
from hermes_tasks.transport import PushAnswer, SessionStore, push_answers
from hermes_tasks.turns import Turn

if TYPE_CHECKING:
    from celery import Celery

Answer = TypeVar("Answer")

READ_AHEAD = 2_000
"""Turns held in memory at most, so that one long session does not keep the others from going."""

DEAD_LETTERS_READ = 10_000
"""Newest dead letters looked through for turns of this replay."""

POLL_SECONDS = 0.05
"""Pause between two looks at the sessions, while nothing moves."""


@dataclass(slots=True)
class Summary:
    """How a replay went.

    Attributes:
        turns: turns sent, or found queued already.
        messages: Honcho messages in them.
        sessions: sessions they belong to.
        settled: turns that are written or given up.
        given_up: turns given up, by reason; see the dead letters.
        left_out: messages of the source that are not to be remembered.
        seconds: how long it took.
    """

    turns: int = 0
    messages: int = 0
    sessions: int = 0
    settled: int = 0
    given_up: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    seconds: float = 0.0

    @property
    def written(self) -> int:
        """Turns that Honcho has."""
        return self.settled - self.given_up.total()


@dataclass(slots=True)
class _Session:
    """The turns of one session on their way: ``pending`` here, ``sent`` in Redis."""

    pending: deque[Turn] = field(default_factory=deque)
    sent: deque[int] = field(default_factory=deque)


class Replay:
    """Sends the turns of one source.

    Args:
        app: the Celery application whose broker takes the turns.
        settings: the settings it was made with.
        on_progress: called with the summary so far, some twenty times a second.
        timeout: seconds after which to give up waiting; for ever by default.
    """

    def __init__(
        self,
        app: Celery,
        settings: Settings,
        *,
        on_progress: Callable[[Summary], object] = lambda _: None,
        timeout: float | None = None,
    ) -> None:
        self._link = Link(app, settings.safe_broker_url)
        self._app = app
        # Loads the modules that define the tasks; the CLI's own process is no worker.
        app.loader.import_default_modules()
        self._task = app.tasks[TASK]
        self._room = max(1, settings.queue_limit // 2)
        self._on_progress = on_progress
        self._timeout = timeout
        self._sessions: dict[str, _Session] = {}
        self._names: set[str] = set()
        self._held = 0
        self._ids: set[str] = set()
        self.summary = Summary()

    def run(self, source: Source) -> Summary:
        """Send every turn of ``source`` and wait until all are written or given up.

        A source that breaks off in the middle is no reason to leave what was sent before: that is
        waited for too, and then the error raised.

        Raises:
            BrokerUnavailable: Redis does not answer, or refuses us. Run again to go on.
            SourceError: the source cannot be read any further.
            StillSyncing: turns were still unwritten after the time-out; they stay queued.
        """
        begin = time.monotonic()
        deadline = None if self._timeout is None else begin + self._timeout
        last_dead = self._ask(_newest_dead_letter)
        turns: Iterator[Turn] | None = source.turns()
        broken: SourceError | None = None
        try:
            while turns is not None or self._sessions:
                if turns is not None:
                    try:
                        turns = self._read(turns)
                    except SourceError as error:
                        broken, turns = error, None
                moved = self._advance()
                self.summary.left_out = source.left_out
                self.summary.seconds = time.monotonic() - begin
                self._on_progress(self.summary)
                if deadline is not None and time.monotonic() >= deadline and self._sessions:
                    raise self._out_of_time() from broken
                if not moved and self._sessions:
                    time.sleep(POLL_SECONDS)
            self._count_dead_letters(last_dead)
            self._on_progress(self.summary)
        finally:
            self._link.close()
        if broken is not None:
            raise broken
        return self.summary

    def _out_of_time(self) -> StillSyncing:
        left = self.summary.turns - self.summary.settled
        return StillSyncing(
            f"{left} of {self.summary.turns} turns are not written after {self._timeout:g} s; they "
            "stay queued and workers will write them"
        )

    def _read(self, turns: Iterator[Turn]) -> Iterator[Turn] | None:
        """Read ahead; ``None`` when the source is at its end."""
        while self._held < READ_AHEAD:
            turn = next(turns, None)
            if turn is None:
                return None
            self._sessions.setdefault(turn.session_key, _Session()).pending.append(turn)
            self._held += 1
        return turns

    def _advance(self) -> bool:
        """See what was settled, and send as much as there is room for. Whether anything moved."""
        moved = False
        for key, session in list(self._sessions.items()):
            progress = self._ask(methodcaller("progress", key))
            first = progress.first_unsettled
            while session.sent and (first is None or session.sent[0] < first):
                session.sent.popleft()
                self.summary.settled += 1
                moved = True
            room = self._room - progress.waiting - progress.backlog
            while session.pending and room > 0:
                turn = session.pending.popleft()
                self._held -= 1
                answer = self._send(turn)
                # A turn that was queued already has no number: all that is accepted may be it.
                session.sent.append(answer.number or progress.accepted)
                self._count(turn)
                room -= 1
                moved = True
            if not session.pending and not session.sent:
                del self._sessions[key]
        return moved

    def _send(self, turn: Turn) -> PushAnswer:
        channel = self._link.channel()
        try:
            with push_answers() as answers:
                self._task.apply_async(
                    (turn.to_json(),),
                    task_id=turn.turn_id,
                    producer=self._app.amqp.Producer(channel, auto_declare=False),
                    retry=False,
                )
        except FAILURES as error:
            raise self._link.broken(error) from error
        return answers[-1]

    def _count(self, turn: Turn) -> None:
        self._ids.add(turn.turn_id)
        self._names.add(turn.session_key)
        self.summary.turns += 1
        self.summary.messages += turn.size
        self.summary.sessions = len(self._names)

    def _ask(self, question: Callable[[SessionStore], Answer]) -> Answer:
        store: SessionStore = self._link.channel().sessions
        try:
            return question(store)
        except FAILURES as error:
            raise self._link.broken(error) from error

    def _count_dead_letters(self, since: tuple[int, int]) -> None:
        letters = self._ask(methodcaller("dead_letters", count=DEAD_LETTERS_READ))
        for letter in letters:
            if _entry(letter) > since and letter["id"] in self._ids:
                self.summary.given_up[letter["reason"]] += 1


def _newest_dead_letter(store: SessionStore) -> tuple[int, int]:
    newest = store.dead_letters(count=1)
    return _entry(newest[0]) if newest else (0, 0)


def _entry(letter: dict[str, Any]) -> tuple[int, int]:
    """The place of a dead letter in its stream."""
    milliseconds, _, number = letter["entry"].partition("-")
    return int(milliseconds), int(number)
