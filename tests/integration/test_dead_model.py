"""Dead letters that are retried, whatever else goes on, against the invariants of the sessions.

What is put back must be asked about, must never be written before what was written already, and
must not be lost: the machine of ``session_model`` knows all of that, and holds it after every
step. And `hermes-tasks check` must find nothing wrong with any of the states it comes to.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.transport.answers import Outcome
from hermes_tasks.transport.check import Fault, Snapshot, faults, look
from hermes_tasks.transport.dead import DeadLetters, Retried
from tests.integration.session_model.machine import QUICK, SessionMachine, Work, run
from tests.integration.session_model.store import OPTIONS, SESSIONS, Sight, look_around

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


class DeadMachine(SessionMachine):
    """Somebody retries dead letters, and somebody looks whether all is well."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = DeadLetters(self.store)
        self.fronts = self.ends = 0

    @rule(data=st.data())
    def retry_dead_letters(self, data: st.DataObject) -> None:
        letters = list(self.letters.newest())
        if letters:
            chosen = data.draw(st.lists(st.sampled_from(letters), min_size=1, unique=True))
            for done in self.letters.retry(chosen):
                self._retried(done)

    @precondition(lambda self: self.work)
    @rule(data=st.data(), end=st.booleans())
    def give_up_and_retry(self, data: st.DataObject, end: bool) -> None:
        work, before = self.work[-1], self.client.xlen(self.store.names.dead)
        self.bury(data)
        if end and work in self.work:
            self._complete(work.session, work.token, Outcome.ENDED, work.claim.items[0].id)
        self.who_waits_is_told(look_around(self.store))
        if self.client.xlen(self.store.names.dead) > before:
            self.retry_dead_letters(data)
        self.work_on_the_next_sessions(2)

    def _begin(self, work: Work, last: int) -> None:
        """A task makes no call for what it has given up itself."""
        book = self.books[work.session]
        numbers = {item.number for item in work.claim.items if item.number <= last}
        if book.holder != work.token or not numbers & book.gone.keys():
            super()._begin(work, last)

    def _retried(self, done: Retried) -> None:
        book, letter, number = self.books[done.letter.session], done.letter, done.number
        queued = [id for n, id in book.accepted.items() if n not in book.gone]
        if done.answer == "duplicate":
            assert letter.id in queued
        elif done.answer == "full":
            assert len(queued) >= OPTIONS.waiting_limit + OPTIONS.backlog_limit
        elif done.answer == "doubt":
            assert book.holder
        else:
            if done.answer == "front":
                self.fronts += 1
                assert number == letter.number
                del book.gone[number]
            else:
                self.ends += 1
                assert number == max(book.accepted) + 1
                book.accepted[number] = letter.id
                if letter.number in book.lands:
                    book.lands[number] = book.lands[letter.number]
            assert number > max(book.written, default=0)
            book.touched.add(number)
            book.since[number] = self.now
            book.due.pop(number, None)
            # Whoever has buried it under this claim believes in its old number: it dies.
            self.work = [
                work
                for work in self.work
                if work.session != letter.session
                or letter.id not in [item.id for item in work.claim.items]
            ]

    def the_counters_are_those_of_the_ledger(self, seen: Sight) -> None:
        counters = seen.counters
        gone = Counter(how for book in self.books.values() for how in book.gone.values())
        buried = sum(count for what, count in counters.items() if what.startswith("dead:"))
        assert buried == gone["dead"] + self.fronts
        assert seen.dead == gone["dead"] - self.ends
        assert counters["dead_retried"] == self.fronts + self.ends
        assert counters["written"] == gone["written"]

    @invariant()
    def check_finds_nothing(self) -> None:
        held: Any = self.client.lrange(self.store.held, 0, -1)
        holders = {name.decode(): ["the test"] for name in held}
        for seen in look(self.store, SESSIONS):
            assert isinstance(seen, Snapshot)
            found = faults(seen, {}, holders)
            # What is popped and not yet claimed is on no run queue, and time passes at will here.
            passing = (Fault.QUEUE, Fault.UNATTENDED)
            assert [one for one in found if one.fault not in passing] == []


def test_retried_letters_keep_every_promise(redis_client: redis.Redis) -> None:
    run(DeadMachine, redis_client, settings(QUICK, max_examples=15), {})
