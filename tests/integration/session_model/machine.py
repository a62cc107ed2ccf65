"""Pushers, workers, keepers, a clock and an operator, and the invariants of the design.

``SessionMachine`` keeps a ledger of what Redis *answered* and asks after every step whether the
invariants of the design hold on what Redis *holds*. ``SteeredMachine`` adds an operator.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from typing import Any
from urllib.parse import unquote

import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hermes_tasks.transport import scripts
from hermes_tasks.transport.answers import (
    Claimed,
    Completed,
    Entry,
    Exchanged,
    Help,
    Item,
    Outcome,
    PushAnswer,
)
from hermes_tasks.transport.reading import unsettled
from tests.integration.editing import Edits, edited_scripts, set_clock
from tests.integration.session_model.store import (
    GRACE,
    INTERVAL,
    LANDING,
    OPTIONS,
    REMEMBERED,
    REWRITTEN,
    SESSIONS,
    START,
    Held,
    HoldingStore,
    Sight,
    look,
    look_around,
)


@dataclass
class Book:
    """The ledger of one session: what Redis said it did."""

    accepted: dict[int, str] = field(default_factory=dict)
    gone: dict[int, str] = field(default_factory=dict)  # number: written, dead, purged
    written: list[int] = field(default_factory=list)  # in the order it was said
    touched: set[int] = field(default_factory=set)  # a call for them may have gone out
    due: dict[int, int] = field(default_factory=dict)  # not to be delivered before
    since: dict[int, int] = field(default_factory=dict)  # accepted, or due, at
    lands: dict[int, int] = field(default_factory=dict)  # a call for it may land until then
    asked: int = 0  # in vain since the latest call, as far as Redis was told
    rewritten: list[str] = field(default_factory=list)
    awaited: set[int] = field(default_factory=set)  # somebody waits for all up to these numbers
    paused: bool = False
    holder: str | None = None  # the token Redis last gave the session to, until it was given back


@dataclass
class Work:
    """A claim some worker believes in."""

    claim: Claimed
    began: bool = False

    @property
    def may_write(self) -> bool:
        """As Redis has it. It is not obeyed by those who write too early, but by a worker."""
        doubt = self.claim.doubt
        return doubt is None or doubt.until <= self.claim.now

    @property
    def session(self) -> str:
        return self.claim.session

    @property
    def token(self) -> str:
        return self.claim.token


any_session = st.sampled_from(SESSIONS)
some_delay = st.sampled_from([0, 0, 0, 0, 2, 8])
some_kind = st.sampled_from(["k", "k", "k", "k", "l", "-"])
STEERED = (
    "pause, ended",
    "pause, failed",
    "pause, held",
    "pause, exchanged",
    "drop",
    "rouse",
)
some_sender = st.sampled_from(["-", "g", "g", "h", "i j", "k", "l"])


class SessionMachine(RuleBasedStateMachine):
    """Pushers, workers that die, keepers and a clock, against the invariants."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.store = HoldingStore(self.client, options=OPTIONS)
        self.now = START
        set_clock(self.client, self.now)
        self.serial = itertools.count(1)
        self.books = {name: Book() for name in SESSIONS}
        self.sent: dict[tuple[str, str], int] = {}
        self.popped: list[tuple[int, str]] = []
        self.work: list[Work] = []
        self.twice = 0
        self.note_process("the first")

    def note_process(self, run_id: str) -> None:
        scripts.script("epoch")(self.client, [self.store.names.meta], [run_id])

    # What the subclass adds to.

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.store, name)(*args, **kwargs)

    def moved_run_queue(self, change: Callable[[list[Any]], Any]) -> None:
        """The test itself changed the run queue."""

    def moved_clock(self) -> None:
        """The test moved the clock."""

    def noted_epoch(self) -> None:
        """Another Redis process answers."""

    # -- pushing ---------------------------------------------------------------------------------

    def _push(self, session: str, id: str, **options: Any) -> PushAnswer:
        book, text = self.books[session], f"text of {id}\n"
        answer: PushAnswer = self.call("push", session, text, id=id, **options)
        if answer.status == "accepted":
            assert answer.number == max(book.accepted, default=0) + 1
            book.accepted[answer.number] = id
            book.since[answer.number] = self.now + options.get("delay", 0) * 1000
            if options.get("delay"):
                book.due[answer.number] = book.since[answer.number]
            for lost in answer.dropped:
                oldest = min(number for number in book.accepted if number not in book.gone)
                inflight = [item.number for item in look(self.store, session).lists["inflight"]]
                waiting = [n for n in book.accepted if n not in book.gone and n not in inflight]
                assert book.accepted[waiting[0]] == lost, "not the oldest waiting was given up"
                assert oldest <= waiting[0]
                book.gone[waiting[0]] = "dead"
        return answer

    @rule(
        session=any_session,
        size=st.sampled_from([1, 1, 1, 2, 3, 6]),
        kind=some_kind,
        delay=some_delay,
        sender=some_sender,
        skip=st.sampled_from([False, False, False, True]),
        count=st.integers(1, 4),
    )
    def push(
        self,
        session: str,
        size: int,
        kind: str,
        delay: float,
        sender: str,
        skip: bool,
        count: int,
    ) -> None:
        for _ in range(count):
            self._push_new(session, sender, skip, size=size, kind=kind, delay=delay)

    def _push_new(self, session: str, sender: str, skip: bool, **options: Any) -> None:
        number = next(self.serial)
        if sender != "-":
            previous = self.sent.get((session, sender))
            missing = number if skip and previous else previous
            options |= {"sender": sender, "sent": number + 1, "previous": missing}
        answer = self._push(session, f"{number} %\n ü", **options)
        assert answer.status in ("accepted", "gap")
        if answer.status == "gap":
            assert skip, "nothing of this sender is missing"
        elif sender != "-":
            self.sent[session, sender] = number + 1

    @rule(session=any_session, data=st.data(), sender=some_sender, sent=st.integers(0, 30))
    def push_again(self, session: str, data: st.DataObject, sender: str, sent: int) -> None:
        known = self.books[session].accepted
        if not known:
            return
        number = data.draw(st.sampled_from(sorted(known)))
        queued = look(self.store, session).queued
        answer = self._push(session, known[number], kind="k", sender=sender, sent=sent)
        assert answer.status == "duplicate" or known[number] not in queued.values()
        if answer.status == "accepted":
            # Were the sender forgotten, this is now all Redis knows of it.
            self.sent.pop((session, sender), None)

    @precondition(lambda self: self.work)
    @rule(data=st.data(), delay=some_delay)
    def retry(self, data: st.DataObject, delay: float) -> None:
        work = data.draw(st.sampled_from(self.work))
        book, before = self.books[work.session], look(self.store, work.session)
        head = work.claim.items[0].id
        answer = self._push(work.session, head, kind="k", delay=delay, token=work.token)
        assert answer.status == ("retried" if book.holder == work.token else "stale")
        after = look(self.store, work.session)
        assert after.queued == before.queued, "a retry added or removed a message"

    # -- working ---------------------------------------------------------------------------------

    def pop(self) -> None:
        entry: Any = self.client.rpop(self.store.names.run)
        if entry is None:
            return
        self.moved_run_queue(list.pop)
        try:
            number, session = json.loads(entry)
        except ValueError:
            return
        self.popped.append((int(number), session))

    @rule(slower_than_the_grace=st.booleans())
    def pop_and_be_slow_or_die(self, slower_than_the_grace: bool) -> None:
        self.pop()
        if slower_than_the_grace:
            self.pass_time_and_sweep(GRACE + 1)
            self.pass_time_and_sweep(GRACE + 1)
            self.pop()

    def give_back(self) -> None:
        if not self.popped:
            return
        number, session = self.popped.pop()
        self.store.give_back(json.dumps([str(number), session]))
        self.moved_run_queue(lambda run: run.append([str(number), session]))

    @precondition(lambda self: self.popped)
    @rule(data=st.data())
    def claim_late(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.popped))
        self.popped.remove(entry)
        self._claim(entry[1], entry[0], f"t{next(self.serial)}")

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def claim_again_with_the_same_token(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        number = look(self.store, work.session).fields.get("since", "0")
        if self.books[work.session].holder != work.token:
            number = "0"
        self._claim(work.session, int(number), work.token)

    @rule(count=st.integers(1, 3))
    def work_on_the_next_sessions(self, count: int) -> None:
        for _ in range(count):
            self.pop()
            if self.popped:
                number, session = self.popped.pop()
                self._claim(session, number, f"t{next(self.serial)}")

    def _claim(self, session: str, number: int, token: str) -> Claimed | None:
        before = look(self.store, session)
        claim: Claimed | None = self.call("claim", session, number, token, "worker")
        self._claimed(session, token, before, claim)
        return claim

    def _claimed(self, session: str, token: str, before: Held, claim: Claimed | None) -> None:
        if claim is None:
            return
        book = self.books[session]
        assert book.holder in (None, token), "two workers hold the session"
        assert book.holder == token or not book.paused, "a paused session is worked on"
        book.holder = token
        numbers = [item.number for item in claim.items]
        assert numbers == sorted(before.queued)[: len(numbers)], "a batch is not the oldest"
        had = {item.number for item in before.lists["inflight"]}
        for number in set(numbers) - had:
            assert book.due.get(number, 0) <= self.now, "delivered before its time"
        assert all(item.accepted == book.since[item.number] for item in claim.items)
        doubt = claim.doubt
        for number in numbers:
            if number in book.touched:
                assert doubt is not None, "a call for it may have gone out, and nobody would ask"
                assert number <= doubt.last, "a call for it may have gone out, and nobody would ask"
            if number in book.lands:
                assert doubt is not None
                assert doubt.until > 0, "a call was never answered, and one question would do"
                assert doubt.until >= min(book.lands[number], claim.now), "a call may still land"
                assert doubt.asked <= book.asked, "written after too few questions"
        assert claim.rewritten == tuple(book.rewritten)
        others = [work for work in self.work if work.token != token]
        self.work = [*others[-5:], Work(claim)]

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        last = data.draw(st.sampled_from(work.claim.items)).number
        self._begin(work, last)

    def _begin(self, work: Work, last: int) -> None:
        if not work.may_write:
            self._wait(work)
            return
        book = self.books[work.session]
        numbers = [item.number for item in work.claim.items if item.number <= last]
        began = self.call("begin", work.session, work.token, numbers[0], numbers[-1])
        assert began == (book.holder == work.token), "the fence of begin"
        if began:
            work.began = True
            book.asked = 0
            book.touched |= set(numbers)
            book.lands |= dict.fromkeys(numbers, self.now + LANDING)

    def _wait(self, work: Work) -> None:
        """What was asked for is not there, and an earlier call may still land."""
        book, doubt = self.books[work.session], work.claim.doubt
        assert doubt is not None
        waits = self.call("wait", work.session, work.token, doubt.first, doubt.last, doubt.until)
        assert waits == (book.holder == work.token), "the fence of wait"
        if waits:
            book.holder, book.asked = None, 1
            after = look(self.store, work.session)
            wakes = after.fields.get("due") if book.paused else after.sleeping
            assert wakes is not None
            assert int(wakes) == doubt.until

    @staticmethod
    def _answered(book: Book) -> None:
        """A call was; it had begun when none before it could land any more."""
        book.lands.clear()

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        self._commit(work, data.draw(st.integers(0, len(work.claim.items))))

    def _commit(self, work: Work, count: int) -> None:
        book, items = self.books[work.session], work.claim.items[:count]
        ids, doubt = [item.id for item in items], work.claim.doubt
        if not work.began:  # they were found
            settled = self.call("commit_found", work.session, work.token, ids)
        else:
            doubtful = doubt.last if doubt is not None and doubt.until else 0
            settled = self.call("commit", work.session, work.token, ids, doubtful=doubtful)
            if settled:
                fresh = [item for item in items if item.number not in book.gone]
                rewritten = [item.id for item in fresh if item.number <= doubtful]
                book.rewritten = (book.rewritten + rewritten)[-REWRITTEN:]
                if fresh:
                    self._answered(book)
        assert settled == (book.holder == work.token), "the fence of commit"
        if settled:
            for item in items:
                self._written(book, item.number)

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def find_twice(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        book, head = self.books[work.session], work.claim.items[0]
        twice = data.draw(st.lists(st.sampled_from([head.id, *book.rewritten]), unique=True))
        held = self.call("commit_found", work.session, work.token, [], twice)
        assert held == (book.holder == work.token), "the fence of commit"
        if not held:
            return
        self.twice += len(set(twice) & set(book.rewritten))
        book.rewritten = [id for id in book.rewritten if id not in twice]
        if head.id in twice and head.number not in book.gone:
            self.twice += 1
            self._written(book, head.number)

    def _written(self, book: Book, number: int) -> None:
        if number in book.gone:
            return
        assert number > max(book.written, default=0), "written out of order"
        book.written.append(number)
        book.gone[number] = "written"

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def bury(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.work))
        item = data.draw(st.sampled_from(work.claim.items))
        self._bury(work, item, in_doubt=not work.began or data.draw(st.booleans()))

    def _bury(self, work: Work, item: Item, *, in_doubt: bool) -> None:
        book = self.books[work.session]
        trace = self.call(
            "bury", work.session, work.token, item.id, reason="poison", in_doubt=in_doubt
        )
        assert (trace is not None) == (book.holder == work.token), "the fence of commit"
        if trace is not None:
            book.gone.setdefault(item.number, "dead")
            if not in_doubt:
                self._answered(book)

    @precondition(lambda self: self.work)
    @rule(data=st.data(), outcome=st.sampled_from(sorted(set(Outcome) - {Outcome.LAPSED})))
    def complete(self, data: st.DataObject, outcome: Outcome) -> None:
        work = data.draw(st.sampled_from(self.work))
        if outcome is Outcome.WRITTEN and work.claim.doubt is None:
            self._write(work, data.draw(st.integers(0, len(work.claim.items))))
        else:
            self.work.remove(work)
            self._complete(work.session, work.token, outcome, work.claim.items[0].id)

    @rule(fewer=st.sampled_from([0, 0, 0, 1]))
    def write_the_next_batch(self, fewer: int) -> None:
        self.work_on_the_next_sessions(1)
        if self.work and self.work[-1].claim.doubt is None:
            self._write(self.work[-1], len(self.work[-1].claim.items) - fewer)

    def _write(self, work: Work, count: int) -> None:
        """As a worker that is well: the acknowledgement says what its call has written."""
        if not work.began:
            self._begin(work, work.claim.items[-1].number)
        self.work.remove(work)
        written = [item.id for item in work.claim.items[:count]]
        self._complete(work.session, work.token, Outcome.WRITTEN, work.claim.items[0].id, written)

    @rule(fewer=st.sampled_from([0, 0, 1]), ahead=st.booleans(), plenty=st.integers(0, 2))
    def exchange_for_the_next_batch(self, fewer: int, ahead: bool, plenty: int) -> None:
        self.work_on_the_next_sessions(1)
        if ahead:
            self.pop()
        if not self.work or self.work[-1].claim.doubt is not None:
            return
        self._exchange(self.work[-1], fewer, ahead=ahead, plenty=plenty)

    def _exchange(self, work: Work, fewer: int, *, ahead: bool, plenty: int) -> None:
        """``ahead``: what was popped last is what the exchange before has reserved."""
        self.work.remove(work)
        self._begin(work, work.claim.items[-1].number)
        if work.token != self.books[work.session].holder:
            return
        reserved = Entry(*self.popped.pop()) if ahead and self.popped else None
        written = [item.id for item in work.claim.items[: len(work.claim.items) - fewer]]
        full, queued = plenty < 2, self.store.client.llen(self.store.names.run)
        before = look(self.store, work.session)
        there = None if reserved is None else look(self.store, reserved.session)
        token = f"t{next(self.serial)}"
        found: Exchanged = self.call(
            "exchange",
            work.session,
            work.token,
            Outcome.WRITTEN,
            work.claim.items[0].id,
            written=written,
            reserved=reserved,
            fresh=token,
            worker="worker",
            full=full,
            plenty=plenty,
        )
        assert full or queued or not found.entry, "a session was kept from those who wait for one"
        done = found.completed
        self._completed(work.session, work.token, Outcome.WRITTEN, written, before, done)
        if reserved is not None and there is not None:
            self._claimed(reserved.session, token, there, found.claimed)
            since = int(there.fields.get("since", sys.maxsize))
            if there.state == "ready" and reserved.number >= since:
                taken = look(self.store, reserved.session)
                assert taken.state != "ready", "a reserved entry was good, and is lost"
        assert found.claimed is None or found.entry is None, "more work than a worker has room for"
        if found.reserved is not None:
            left = self.client.llen(self.store.names.run)
            assert left >= plenty, "reserved, and others might want for work"
        for raw in (found.entry, found.reserved):
            with suppress(ValueError):
                if raw is not None:
                    self.popped.append(astuple(Entry.parse(raw)))

    def _complete(
        self,
        session: str,
        token: str,
        outcome: Outcome,
        id: str = "",
        written: Sequence[str] = (),
    ) -> str:
        before = look(self.store, session)
        done: Completed = self.call("complete", session, token, outcome, id, written=written)
        return self._completed(session, token, outcome, written, before, done)

    def _completed(
        self,
        session: str,
        token: str,
        outcome: Outcome,
        written: Sequence[str],
        before: Held,
        done: Completed,
    ) -> str:
        book, answer = self.books[session], done.state
        if outcome is Outcome.LAPSED:
            alive = before.lease is None or before.lease > self.now
            assert (answer == "lost") == alive
        else:
            assert (answer == "lost") == (book.holder != token), "the fence of complete"
        if answer == "lost":
            return answer
        book.holder = None
        after = look(self.store, session)
        assert after.state == answer or answer == "dead"
        missing = sorted(set(before.queued) - set(after.queued))
        front = sorted(before.queued)[: len(missing)]
        assert missing == front, "what is gone was not in front"
        if outcome is Outcome.WRITTEN:
            queued = [item.id for item in before.items]
            assert len(missing) >= sum(id in queued for id in written), "written, and still queued"
            if missing and written:
                self._answered(book)
        else:
            assert len(missing) <= 1, "more than the head is gone"
        for number in missing:
            if done.given_up:
                book.gone[number] = "dead"
            else:
                assert outcome in (Outcome.SETTLED, Outcome.WRITTEN)
                self._written(book, number)
        return answer

    @precondition(lambda self: self.work)
    @rule(data=st.data(), seconds=st.sampled_from([0, 2, 8]), most=st.sampled_from([1, 2, 9]))
    def postpone(self, data: st.DataObject, seconds: float, most: int) -> None:
        work = data.draw(st.sampled_from(self.work))
        in_doubt = not work.began or data.draw(st.booleans())
        self._postpone(work, seconds, most=most, in_doubt=in_doubt)

    def _postpone(self, work: Work, seconds: float, *, most: int, in_doubt: bool) -> None:
        done = self.call(
            "postpone",
            work.session,
            work.token,
            seconds,
            most=most,
            note="503",
            in_doubt=in_doubt,
        )
        book = self.books[work.session]
        assert done == (book.holder == work.token), "the fence of postpone"
        if done and not in_doubt:
            self._answered(book)

    @precondition(lambda self: self.work)
    @rule(data=st.data(), lines=st.sampled_from([1, 1, 45]))
    def note(self, data: st.DataObject, lines: int) -> None:
        work = data.draw(st.sampled_from(self.work))
        for number in range(lines):
            done = self.call("note", work.session, work.token, f"line {number}")
            assert done == (self.books[work.session].holder == work.token), "the fence of note"

    @precondition(lambda self: self.work)
    @rule(data=st.data(), acknowledged=st.booleans())
    def hold(self, data: st.DataObject, acknowledged: bool) -> None:
        work = data.draw(st.sampled_from(self.work))
        book = self.books[work.session]
        held = self.call("hold", work.session, work.token)
        assert held == (book.holder == work.token), "the fence of hold"
        if held:
            book.holder = None
        if acknowledged:
            self.work.remove(work)
            answer = self._complete(work.session, work.token, Outcome.ENDED)
            assert answer == "lost", "an old token ended a claim"

    @rule(session=any_session)
    def resume_held(self, session: str) -> None:
        before = look(self.store, session)
        assert self.call("resume", session) == bool(before.held)

    @precondition(lambda self: self.work)
    @rule()
    def stall_until_others_have_the_sessions(self) -> None:
        self.pass_time(11)
        self.sweep()
        self.work_on_the_next_sessions(2)

    @precondition(lambda self: self.work)
    @rule(
        how=st.sampled_from(["ended", "postponed", "failed", "lapsed"]),
        then=st.sampled_from(["", "bury", "find"]),
    )
    def fail_in_doubt_and_try_again(self, how: str, then: str) -> None:
        work = self.work[-1]
        self._begin(work, work.claim.items[-1].number)
        if how == "postponed":
            self._postpone(work, 2, most=9, in_doubt=True)
        if how != "lapsed":
            outcome = Outcome.FAILED if how == "failed" else Outcome.ENDED
            self._complete(work.session, work.token, outcome, work.claim.items[0].id)
        self.stall_until_others_have_the_sessions()
        if then:  # with the head, and the next to have the session may still be in doubt
            again = self.work[-1]
            if then == "bury":
                self._bury(again, again.claim.items[0], in_doubt=True)
            else:
                self._commit(again, 1)
            self._complete(again.session, again.token, Outcome.ENDED)
            self.work_on_the_next_sessions(2)

    # -- what goes on by itself ------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        set_clock(self.client, self.now)
        for book in self.books.values():  # no call begins later than now, whatever now is
            book.lands = {n: min(lands, self.now + LANDING) for n, lands in book.lands.items()}
        self.moved_clock()

    @rule(seconds=st.sampled_from([0.1, 1, 3.5, 3.5, 11, 11, -1, -20, -100]))
    def pass_time_and_sweep(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.sweep()

    def sweep(self) -> None:
        """What a keeper does every quarter of a second."""
        found: Help = self.call("rescue", INTERVAL, GRACE)
        for session in found.lapsed:
            assert self._complete(session, "", Outcome.LAPSED) != "lost"
        for session in found.due:
            assert self.call("wake", session)

    @rule(session=any_session)
    def help_without_need(self, session: str) -> None:
        """Two keepers may have found the same session."""
        self.call("wake", session)
        self._complete(session, "", Outcome.LAPSED)

    @precondition(lambda self: self.work)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        work = data.draw(st.lists(st.sampled_from(self.work), unique_by=id))
        alive = self.call("renew", [(w.session, w.token) for w in work])
        assert alive == [self.books[w.session].holder == w.token for w in work]

    @rule(session=any_session, less=st.integers(0, 4))
    def wait_until_all_is_settled(self, session: str, less: int) -> None:
        """``less``: another asked when so many messages fewer had been accepted."""
        book = self.books[session]
        newest = max(1, len(book.accepted))
        for up_to in dict.fromkeys([newest, max(1, newest - less)]):
            found = self.call("watch", session, None if up_to == newest else up_to)
            if found.first_unsettled is not None and found.first_unsettled <= up_to:
                book.awaited.add(up_to)

    @rule(
        session=any_session,
        what=st.sampled_from(
            ["give back", "purge", "purge run queue", "foreign entry", "new process"]
        ),
    )
    def something_rare(self, session: str, what: str) -> None:
        match what:
            case "give back":
                self.give_back()
            case "purge":
                self.purge(session)
            case "purge run queue":
                self.client.delete(self.store.names.run)
                self.moved_run_queue(list.clear)
            case "foreign entry":
                self.client.rpush(self.store.names.run, "not JSON")
                self.moved_run_queue(lambda run: run.append("not JSON"))
            case "new process":
                self.another_redis_process_answers()

    def purge(self, session: str) -> None:
        book, before = self.books[session], look(self.store, session)
        assert self.call("purge", session) == len(before.items) - len(before.lists["inflight"])
        for name in ("backlog", "waiting"):
            book.gone |= {item.number: "purged" for item in before.lists[name]}

    def another_redis_process_answers(self) -> None:
        self.note_process(f"r{next(self.serial)}")
        for book in self.books.values():
            book.touched |= set(book.accepted)
            book.lands |= dict.fromkeys(book.accepted, self.now + LANDING)
            book.asked = 0
        self.noted_epoch()

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def what_redis_holds_is_sound(self) -> None:
        self.check(look_around(self.store))

    def check(self, seen: Sight) -> None:
        self.every_session_is_sound(seen)
        self.who_waits_is_told(seen)
        self.the_counters_are_those_of_the_ledger(seen)

    def every_session_is_sound(self, seen: Sight) -> None:
        for session, book in self.books.items():
            held = seen.sessions[session]
            if held.state != "leased" or held.lists["inflight"]:
                oldest = min(book.accepted.keys() - book.gone.keys(), default=0)
                assert held.lagging == book.since.get(oldest), "lags by the age of another"
            numbers = [item.number for item in held.items]
            assert numbers == sorted(set(numbers)), "numbers are not increasing"
            assert held.queued == {
                n: id for n, id in book.accepted.items() if n not in book.gone
            }, "a message is not in exactly one place"
            assert held.ids == {item.id for item in held.items}, "ids are not those in the lists"
            assert len(held.lists["waiting"]) <= OPTIONS.waiting_limit
            assert len(held.lists["backlog"]) <= OPTIONS.backlog_limit
            assert held.fields.get("accepted", "0") == str(len(book.accepted))
            assert held.fields.get("settled", "0") == str(len(book.gone))
            assert held.fields.get("written", "0") == str(max(book.written, default=0))
            rewritten = held.fields.get("rewritten", "").split()
            assert [unquote(id) for id in rewritten] == book.rewritten
            member_of = {
                state
                for state, score in (
                    ("ready", held.ready),
                    ("leased", held.lease),
                    ("sleeping", held.sleeping),
                    ("held", held.held or None),
                )
                if score is not None
            }
            assert held.held <= 1, "held twice"
            assert member_of == ({held.state} if held.state not in ("idle", "paused") else set())
            assert book.paused == ("paused" in held.fields) == (held.paused is not None)
            if held.state != "leased" and held.state != "held":
                assert book.paused == (held.state == "paused"), "paused, and yet going on"
            assert ("token" in held.fields) == (held.state == "leased")
            assert held.fields.get("token") == book.holder, "the lease changed hands in silence"
            if held.state == "idle":
                assert not held.items
                assert held.ttl > 0 or (held.ttl == -2 and not held.fields)
                assert not held.fields.keys() - REMEMBERED, "an idle session keeps what is over"
            else:
                assert held.ttl == -1, "a session with work is forgotten after a day"

    def who_waits_is_told(self, seen: Sight) -> None:
        for session, book in self.books.items():
            oldest = min(book.accepted.keys() - book.gone.keys(), default=sys.maxsize)
            done = [number for number in book.awaited if number < oldest]
            announced = seen.announced.count(self.store.names.channel(session).encode())
            assert announced == bool(done), "who waits is told at once, and once"
            if announced:  # and whoever waits for more looks again
                book.awaited.clear()

    def the_counters_are_those_of_the_ledger(self, seen: Sight) -> None:
        counters = seen.counters
        gone = Counter(how for book in self.books.values() for how in book.gone.values())
        assert counters["accepted"] == sum(len(book.accepted) for book in self.books.values())
        assert counters["written"] == gone["written"]
        assert counters["purged"] == gone["purged"]
        assert counters["twice"] == self.twice
        buckets = sum(count for what, count in counters.items() if what.startswith("lag:"))
        assert buckets == gone["written"]
        held = seen.sessions.values()
        assert counters["backlog"] == sum(len(one.lists["backlog"]) for one in held)
        assert unsettled(counters) == sum(len(one.items) for one in held)
        dead = sum(count for what, count in counters.items() if what.startswith("dead:"))
        assert dead == gone["dead"] == seen.dead

    def teardown(self) -> None:
        """No session is stuck: a few rounds of ordinary work drain all of them."""
        if sys.exc_info()[0] is None:
            self._drain()

    def _drain(self) -> None:
        self.popped.clear()
        self.work.clear()
        for _ in range(60):
            if all(held.state == "idle" for held in look_around(self.store).sessions.values()):
                break
            self.pass_time(120)
            self.sweep()
            for session in SESSIONS:
                self.resume_held(session)
            while self.client.llen(self.store.names.run):
                self.pop()
                while self.popped:
                    number, session = self.popped.pop()
                    claim = self._claim(session, number, f"t{next(self.serial)}")
                    if claim is not None:
                        self._begin(self.work[-1], claim.items[-1].number)
                        self._commit(self.work[-1], len(claim.items))
                        self._complete(session, claim.token, Outcome.ENDED, claim.items[0].id)
        seen = look_around(self.store)
        for session, book in self.books.items():
            held = seen.sessions[session]
            assert held.state == "idle", f"stuck as {held.state}"
            assert book.gone.keys() == book.accepted.keys(), "accepted and never settled"
        self.every_session_is_sound(seen)


class SteeredMachine(SessionMachine):
    """The same, and an operator who pauses, drops and wakes: a machine of its own, because what
    breaks without one is found sooner without one.
    """

    operated = True

    @precondition(lambda self: self.operated)
    @rule(session=any_session, what=st.sampled_from(["pause", "unpause", "unpause"]))
    def pause_and_unpause(self, session: str, what: str) -> None:
        book, before = self.books[session], look(self.store, session)
        answer = self.call(what, session)
        after = look(self.store, session)
        assert after.queued == before.queued, "a pause added or removed a message"
        assert answer == (None if what == "unpause" and not book.paused else after.state)
        if before.state in ("leased", "held"):
            assert after.state == before.state, "a pause took a session from its holder"
        book.paused = what == "pause"

    @precondition(lambda self: self.operated and self.work)
    @rule(what=st.sampled_from(STEERED))
    def steer_what_a_worker_has(self, what: str) -> None:
        work = self.work[-1]
        session, token, id = work.session, work.token, work.claim.items[0].id
        match what.partition(", "):
            case "pause", _, "held":
                self.pause_and_unpause(session, "pause")
                if self.call("hold", session, token):
                    self.books[session].holder = None
                self.resume_held(session)
            case "pause", _, "exchanged":
                if work.claim.doubt is None:
                    self.pop()
                    self.pause_and_unpause(session, "pause")
                    if self.popped:  # and there is nothing to do for the next one
                        self.purge(self.popped[-1][1])
                    self._exchange(work, 0, ahead=True, plenty=0)
            case "pause", _, outcome:
                self.pause_and_unpause(session, "pause")
                self._complete(session, token, Outcome(outcome), id)
            case "drop", *_:
                self.drop_or_rouse(session, "drop")
            case _:
                self._begin(work, work.claim.items[-1].number)
                self._complete(session, token, Outcome.FAILED, id)
                self.drop_or_rouse(session, "rouse")

    @precondition(lambda self: self.operated)
    @rule(session=any_session, what=st.sampled_from(["drop", "rouse"]))
    def drop_or_rouse(self, session: str, what: str) -> None:
        book, before = self.books[session], look(self.store, session)
        answer = self.call(what, session)
        after = look(self.store, session)
        if what == "drop":
            kept = before.lists["inflight"] if before.state == "leased" else []
            assert after.items == kept, "not all is dropped that nobody has"
            assert answer.inflight == len(kept)
            book.gone |= dict.fromkeys(before.queued.keys() - after.queued.keys(), "dead")
        elif before.state == "sleeping" and after.state == "ready":
            for head in after.items[:1]:  # what it slept for may have been purged
                fresh = head not in after.lists["inflight"]
                due = book.due.get(head.number, 0)
                assert not fresh or due <= self.now, "roused before its time"
                assert book.lands.get(head.number, 0) <= self.now, "roused with a call in doubt"
        else:
            assert after.state == before.state

    def _drain(self) -> None:
        for session in SESSIONS:
            self.pause_and_unpause(session, "unpause")
        super()._drain()


QUICK = settings(
    max_examples=40,
    stateful_step_count=50,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def run(machine: type[SessionMachine], client: redis.Redis, how: settings, edits: Edits) -> None:
    bound = type(machine.__name__, (machine,), {"client": client})
    with edited_scripts(edits):
        run_state_machine_as_test(bound, settings=how)
