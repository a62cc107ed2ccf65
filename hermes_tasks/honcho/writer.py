"""Turns into Honcho: in order, in batches, each once as far as Honcho allows.

Honcho knows neither idempotency nor fences. So every message carries its turn's id and its part
number, by which a stored one is known; an attempt that may follow another asks first, and what it
does not find is written only when the guard says that no earlier call can land any more; and each
call is let through, what it begins recorded, and the right to write checked, before a byte leaves
(:class:`WriteGuard`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from hermes_tasks.errors import Refused, SessionDeleted
from hermes_tasks.honcho.client import HonchoClient
from hermes_tasks.honcho.deadline import Call
from hermes_tasks.turns import Turn

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
    """What is still to be written of a turn: the numbers of its parts."""

    turn: Turn
    parts: Sequence[int]

    def messages(self) -> Iterator[dict[str, Any]]:
        """Its messages as Honcho takes them, each known by its turn and part from now on."""
        turn, parts = self.turn, self.turn.size
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
    """Writes turns, of one session at a time.

    Args:
        client: the service.
    """

    def __init__(self, client: HonchoClient) -> None:
        self._client = client

    def write(self, turns: Sequence[Turn], guard: WriteGuard, *, ask: bool) -> WriteReport:
        """Write turns of one session, in their order, and settle each of them with the guard.

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
            while batches:
                batch = batches[0]
                try:
                    self._send(batch, guard)
                except SessionDeleted:
                    raise
                except Refused as error:
                    batches.popleft()
                    if len(batch) > 1:
                        middle = len(batch) // 2
                        batches.extendleft((batch[middle:], batch[:middle]))
                    else:
                        turn_id = batch[0].turn.turn_id
                        guard.bury(turn_id, "poison", str(error))
                        dead.append(turn_id)
                else:
                    batches.popleft()
                    guard.commit([entry.turn.turn_id for entry in batch])
                    written += len(batch)
        except SessionDeleted as error:
            # Of all that is left: one call more would create the session anew.
            for entry in [entry for batch in batches for entry in batch] or rest:
                guard.bury(entry.turn.turn_id, "session_deleted", str(error))
                dead.append(entry.turn.turn_id)
        return WriteReport(written, found, tuple(dead))

    def _take_out_held(self, rest: list[_Rest], asked: Sequence[Turn], guard: WriteGuard) -> int:
        """Ask a session for turns, and settle those that it holds; returns how many it does."""
        held = self._client.held(
            asked[0].workspace,
            asked[0].session,
            {turn.turn_id for turn in asked}.union(guard.rewritten),
            calls=guard.call,
        )
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

    def _send(self, batch: Sequence[_Rest], guard: WriteGuard) -> None:
        """Store what is left of some turns: in one call, unless a single one is too large."""
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
    """Runs of turns that fit into one call; a turn that does not is alone."""
    batch: list[_Rest] = []
    size = 0
    for entry in rest:
        if batch and size + len(entry.parts) > CALL_LIMIT:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry.parts)
    if batch:
        yield batch


def _peers(batch: Iterable[_Rest]) -> dict[str, dict[str, bool]]:
    """Observation settings of everyone in these turns, also of those who said nothing."""
    peers: dict[str, dict[str, bool]] = {}
    for entry in batch:
        for message in entry.turn.messages:
            peers.setdefault(message.peer, {})
        peers |= entry.turn.peers
    return peers
