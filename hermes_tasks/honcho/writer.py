"""Turns into Honcho: in order, in batches, each once as far as Honcho allows.

Honcho knows neither idempotency nor fences. So every message carries its turn's id and its part
number, by which a stored one is known; an attempt that may follow another asks first, and what it
does not find is written only when the guard says that no earlier call can land any more; and each
call is let through, what it begins recorded, and the right to write checked, before a byte leaves
(:class:`WriteGuard`).

A conclusion is a call of its own, in its place among the turns. Honcho keeps no id with it: a
stored one is known by its peers, its session and every character of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from hermes_tasks.errors import Refused, SessionDeleted
from hermes_tasks.honcho.client import HonchoClient
from hermes_tasks.honcho.deadline import Call
from hermes_tasks.turns import Conclusion, Memory, Turn

CALL_LIMIT: Final = 100
"""Most messages that Honcho takes in one call."""

TOO_LARGE: Final = 413
"""Status of a proxy that takes smaller requests only."""


class WriteGuard(Protocol):
    """The right to call Honcho for a session, and the record of what was written.

    :class:`~hermes_tasks.guard.GatedLease` is one. Every method may raise
    :class:`~hermes_tasks.errors.LeaseLost`, ``call`` and ``ask_again`` also
    :class:`~hermes_tasks.errors.SessionHeld`: then nothing more is sent.
    """

    @property
    def rewritten(self) -> Collection[str]:
        """Turns written when no earlier call was expected any more: each question includes them."""

    def call(self, messages: int = 0, ids: Iterable[str] = (), /) -> AbstractContextManager[Call]:
        """Open a call: the last step before its first byte. It is over when the block is left.

        ``messages``: how many it carries, of the turns ``ids``; none for one that writes nothing.
        """

    def found(self, ids: Iterable[str], twice: Collection[str], /) -> None:
        """These turns are stored already, all their parts.

        ``twice``: turns, of these or of the rewritten, of which a part is stored more than once.
        """

    def ask_again(self, ids: Iterable[str], /) -> bool:
        """These turns were asked for and are not stored: whether to ask again before writing."""

    def commit(self, ids: Iterable[str], /) -> None:
        """These turns have just been stored, all their parts."""

    def bury(self, turn_id: str, reason: str, detail: str, /) -> None:
        """This turn will never be taken. ``reason`` is one word, ``detail`` one line."""


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What became of the turns of a :meth:`Writer.write` that returned.

    Attributes:
        written: how many it stored.
        found: how many were stored already.
        dead: ids of those given up.
    """

    written: int
    found: int
    dead: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is still to be written of a turn: the numbers of its parts. A conclusion has one."""

    turn: Memory
    parts: Sequence[int]

    def messages(self) -> Iterator[dict[str, Any]]:
        """Its messages as Honcho takes them, each known by its turn and part from now on."""
        turn, parts = self.turn, self.turn.size
        if isinstance(turn, Conclusion):
            return
        for part in self.parts:
            message = turn.messages[part]
            ours = {"turn_id": turn.turn_id, "part": part, "parts": parts}
            yield {
                "peer_id": message.peer,
                "content": message.content,
                "created_at": message.created_at,
                "metadata": {**message.metadata, **ours} if message.metadata else ours,
            }


class Writer:
    """Writes turns and conclusions, of one session at a time.

    Args:
        client: the service.
    """

    def __init__(self, client: HonchoClient) -> None:
        self._client = client

    def write(self, turns: Sequence[Memory], guard: WriteGuard, *, ask: bool) -> WriteReport:
        """Write turns of one session, in their order, and settle each of them with the guard.

        What is said of turns here goes for conclusions, too.

        A batch that Honcho refuses is halved until the turn at fault is alone; that one is buried,
        the others are written.

        Args:
            turns: of one session, in order.
            guard: the right to write for it.
            ask: the turns may have been sent before: write only what the session does not hold.
                Turns that say so themselves are asked about anyway.

        Raises:
            HonchoError: a call failed in a way that may pass. What was settled before it stays
                settled; ``may_have_been_written`` says what may have become of the call.
            LeaseLost, SessionHeld: the guard forbade to go on; nothing was sent after that.
        """
        dead: list[str] = []
        written = found = 0
        rest = [_Rest(turn, range(turn.size)) for turn in turns]
        batches: deque[list[_Rest]] = deque()
        try:
            while asked := [entry.turn for entry in rest if ask or entry.turn.ask]:
                found += self._take_out_held(rest, asked, guard)
                missing = {entry.turn.turn_id for entry in rest}
                unfound = [turn.turn_id for turn in asked if turn.turn_id in missing]
                if not unfound or not guard.ask_again(unfound):
                    break
            batches.extend(_batches(rest))
            # Of a refused batch the second half, and whether that is it for which it was refused.
            second: list[_Rest] | None = None
            at_fault = False
            while batches:
                batch = batches[0]
                if at_fault and batch is second and len(batch) > 1:
                    # Its first half was taken, so this one need not be sent to be refused. With a
                    # call less for such a half, n turns need 2 log2(n) more calls at most.
                    second, at_fault = _halve(batches), False
                    continue
                try:
                    self._send(batch, guard)
                except SessionDeleted:
                    raise
                except Refused as error:
                    second, at_fault = None, False
                    if len(batch) > 1:
                        half = _halve(batches)
                        # What is too large as a whole may be taken in halves.
                        second = half if error.status != TOO_LARGE else None
                    else:
                        batches.popleft()
                        turn_id = batch[0].turn.turn_id
                        guard.bury(turn_id, "poison", str(error))
                        dead.append(turn_id)
                else:
                    batches.popleft()
                    guard.commit([entry.turn.turn_id for entry in batch])
                    written += len(batch)
                    at_fault = True
        except SessionDeleted as error:
            # Of all that is left: one call more would create the session anew.
            for entry in [entry for batch in batches for entry in batch] or rest:
                guard.bury(entry.turn.turn_id, "session_deleted", str(error))
                dead.append(entry.turn.turn_id)
        return WriteReport(written, found, tuple(dead))

    def _take_out_held(self, rest: list[_Rest], asked: Sequence[Memory], guard: WriteGuard) -> int:
        """Ask a session for turns, and settle those that it holds; returns how many it does."""
        held = self._held(asked, guard)
        left = [
            _Rest(entry.turn, [n for n in entry.parts if (entry.turn.turn_id, n) not in held])
            for entry in rest
        ]
        rest[:] = [entry for entry in left if entry.parts]
        found = [entry.turn.turn_id for entry in left if not entry.parts]
        # One with parts still to be written is counted when it is asked for as a rewritten one.
        twice = {turn_id for (turn_id, _), times in held.items() if times > 1}
        twice.difference_update(entry.turn.turn_id for entry in rest)
        if found or twice:
            guard.found(found, twice)
        return len(found)

    def _held(self, asked: Sequence[Memory], guard: WriteGuard) -> Counter[tuple[str, int]]:
        """How often a session holds each part of some turns, and of the rewritten ones."""
        workspace, session = asked[0].workspace, asked[0].session
        held = Counter[tuple[str, int]]()
        turn_ids = {turn.turn_id for turn in asked if isinstance(turn, Turn)}.union(guard.rewritten)
        if turn_ids:
            held += self._client.held(workspace, session, turn_ids, calls=guard.call)
        conclusions = defaultdict[tuple[str, str], list[Conclusion]](list)
        for turn in asked:
            if isinstance(turn, Conclusion):
                conclusions[turn.observer, turn.observed].append(turn)
        for (observer, observed), group in conclusions.items():
            contents = [conclusion.content for conclusion in group]
            found = self._client.concluded(
                workspace, session, observer, observed, contents, calls=guard.call
            )
            for conclusion in group:  # of equal ones the first are those that are held
                if found[conclusion.content]:
                    found[conclusion.content] -= 1
                    held[conclusion.turn_id, 0] = 1
        return held

    def _conclude(self, conclusion: Conclusion, guard: WriteGuard) -> None:
        """Store a conclusion."""
        client, workspace, session = self._client, conclusion.workspace, conclusion.session
        observer, observed = conclusion.observer, conclusion.observed
        client.ensure(workspace, session, {}, calls=guard.call)
        client.ensure_peers(workspace, (observer, observed), calls=guard.call)
        with guard.call(1, [conclusion.turn_id]) as call:
            client.conclude(workspace, session, observer, observed, conclusion.content, call=call)

    def _send(self, batch: Sequence[_Rest], guard: WriteGuard) -> None:
        """Store what is left of some turns: in one call, unless a single one is too large."""
        if isinstance(conclusion := batch[0].turn, Conclusion):
            self._conclude(conclusion, guard)
            return
        workspace, session = batch[0].turn.workspace, batch[0].turn.session
        ids = [entry.turn.turn_id for entry in batch]
        messages = [message for entry in batch for message in entry.messages()]
        self._client.ensure(workspace, session, _peers(batch), calls=guard.call)
        size = CALL_LIMIT
        while messages:
            part = messages[:size]
            try:
                with guard.call(len(part), ids) as call:
                    self._client.add_messages(workspace, session, part, call=call)
            except Refused as error:
                if error.status != TOO_LARGE or len(batch) > 1 or len(part) == 1:
                    raise
                size = len(part) // 2
            else:
                del messages[:size]


def _batches(rest: Iterable[_Rest]) -> Iterator[list[_Rest]]:
    """Runs of turns that fit into one call; a turn that does not is alone, as is a conclusion."""
    batch: list[_Rest] = []
    size = 0
    for entry in rest:
        # A conclusion fills the call that it is.
        weight = len(entry.parts) if isinstance(entry.turn, Turn) else CALL_LIMIT
        if batch and size + weight > CALL_LIMIT:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += weight
    if batch:
        yield batch


def _halve(batches: deque[list[_Rest]]) -> list[_Rest]:
    """Put the halves of the first batch in its place; returns the second."""
    batch = batches.popleft()
    middle = len(batch) // 2
    batches.extendleft((batch[middle:], batch[:middle]))
    return batches[1]


def _peers(batch: Iterable[_Rest]) -> dict[str, dict[str, bool]]:
    """Observation settings of everyone in these turns, also of those who said nothing."""
    peers: dict[str, dict[str, bool]] = {}
    for entry in batch:
        if isinstance(entry.turn, Turn):
            for message in entry.turn.messages:
                peers.setdefault(message.peer, {})
            peers |= entry.turn.peers
    return peers
