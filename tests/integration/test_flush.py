"""Read-your-writes on a real Redis: a flush is told when its turns are settled, or says why not.

The worker is the test itself: it takes sessions and settles them when it wants to.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hermes_tasks import Closed, StillSyncing, TurnSync
from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.gate import Ended, Gate, Go, Hold, Policy
from hermes_tasks.gateway import flush
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.answers import Claimed, Outcome

SECRET = "what nobody but Honcho may read"
WORKSPACE = "w"

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


class Worker:
    """Takes sessions, and settles them by hand."""

    def __init__(self, settings: Settings) -> None:
        app = make_app(settings, set_as_current=False)
        self._connection = app.connection_for_write()
        self.store: SessionStore = self._connection.default_channel.sessions
        self.gate = Gate(self.store, Policy.from_settings(settings), f"default:{WORKSPACE}")
        self._tokens = 0

    def take(self) -> Claimed:
        """The next session that is ready."""
        self.store.rescue(0.0, 3.0)
        entry = wait_until(lambda: self.store.client.rpop(self.store.names.run), 5, "a session")
        number, session = json.loads(entry)  # type: ignore[arg-type]
        self._tokens += 1
        claim = self.store.claim(session, int(number), f"t{self._tokens}", "worker")
        assert claim is not None
        return claim

    def admit(self, claim: Claimed) -> Go | Hold | None:
        """Ask the gate for a call."""
        numbers = claim.items[0].number, claim.items[-1].number
        return self.gate.admit(claim.session, claim.token, numbers, f"w#{claim.token}", 1)

    def write(self, claim: Claimed) -> None:
        """All of a claim is written."""
        assert self.store.commit(claim.session, claim.token, [item.id for item in claim.items])
        self.store.complete(claim.session, claim.token, Outcome.ENDED)

    def close(self) -> None:
        self._connection.release()


@pytest.fixture
def worker_by_hand(settings: Settings) -> Iterator[Worker]:
    worker = Worker(settings)
    yield worker
    worker.close()


@pytest.fixture
def make_gateway(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., TurnSync]]:
    made: list[TurnSync] = []

    def make(settings: Settings = settings) -> TurnSync:
        made.append(TurnSync(settings=settings, workspace=WORKSPACE, outbox_dir=tmp_path / "out"))
        return made[-1]

    yield make
    for gateway in made:
        gateway.close(0)


@pytest.fixture
def only_by_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not told waits for a minute."""
    monkeypatch.setattr(flush, "LOOK_AGAIN_SECONDS", 60.0)


def say(gateway: TurnSync, session: str, content: str = SECRET) -> None:
    gateway.sync_turn(session=session, messages=[{"peer": "igor", "content": content}])


@contextmanager
def flushing(store: SessionStore, *flushes: tuple[TurnSync, str]) -> Iterator[list[Future[bool]]]:
    """Threads that flush, each gateway subscribed to the sessions it waits for."""
    with ThreadPoolExecutor(len(flushes)) as pool:
        futures = [
            pool.submit(gateway.flush, session=session, timeout=30) for gateway, session in flushes
        ]
        for _, session in flushes:
            gateways = len({id(gateway) for gateway, other in flushes if other == session})
            wait_until(lambda: subscribers(store, session) >= gateways, 5, "to be subscribed")  # noqa: B023
        yield futures


def subscribers(store: SessionStore, session: str) -> int:
    channel = store.names.channel(f"default:{WORKSPACE}:{session}")
    found: Any = store.client.pubsub_numsub(channel)
    return int(found[0][1])


def test_whoever_waits_is_told_when_the_turns_are_settled(
    make_gateway: Callable[..., TurnSync], worker_by_hand: Worker, only_by_event: None
) -> None:
    # Given two gateways with turns of two sessions that a worker has,
    worker, one, other = worker_by_hand, make_gateway(), make_gateway()
    for gateway, session in ((one, "a"), (one, "b"), (other, "a")):
        say(gateway, session)
        wait_until(lambda: one.pending + other.pending == 0, 5, "the turns to be in Redis")
    claims = {claim.session[-1]: claim for claim in (worker.take(), worker.take())}
    flushes = (one, "a"), (one, "b"), (one, "a"), (other, "a")
    with flushing(worker.store, *flushes) as (first, b, second, third):
        # if those of one session are written,
        worker.write(claims["a"])
        # I expect all to go on who wait for it, and nobody else
        for future in (first, second, third):
            assert future.result(5)
        assert not b.done()
        # until it is their turn, also if what they wait for is given up
        store, claim = worker.store, claims["b"]
        store.bury(claim.session, claim.token, claim.items[0].id, reason="poison")
        assert b.result(5)
    # and nobody to be subscribed any more
    wait_until(lambda: not subscribers(store, "a") + subscribers(store, "b"), 5, "silence")
    # nor to be told
    assert store.client.hget(store.names.session("default:w:a")[0], "watched") is None


def test_a_lost_connection_is_replaced(
    make_gateway: Callable[..., TurnSync], worker_by_hand: Worker, only_by_event: None
) -> None:
    # Given a flush that waits,
    worker, gateway = worker_by_hand, make_gateway()
    say(gateway, "a")
    claim = worker.take()
    with flushing(worker.store, (gateway, "a")) as (waiting,):
        # if its connection breaks
        assert worker.store.client.client_kill_filter(_type="pubsub") == 1
        wait_until(lambda: subscribers(worker.store, "a"), 5, "to be subscribed again")
        # I expect it to be told over another one
        worker.write(claim)
        assert waiting.result(5)


def test_what_was_not_announced_is_found_all_the_same(
    make_gateway: Callable[..., TurnSync], worker_by_hand: Worker
) -> None:
    # Given a flush that waits,
    worker, gateway = worker_by_hand, make_gateway()
    say(gateway, "a")
    claim = worker.take()
    with flushing(worker.store, (gateway, "a")) as (waiting,):
        # if the turn is settled without a word, as by a worker of an older version,
        worker.store.client.hdel(worker.store.names.session(claim.session)[0], "watched")
        worker.write(claim)
        # I expect it to look by itself
        assert waiting.result(flush.LOOK_AGAIN_SECONDS + 4)


def test_a_user_without_the_right_to_subscribe_flushes_all_the_same(
    make_gateway: Callable[..., TurnSync],
    worker_by_hand: Worker,
    settings: Settings,
    server: Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a Redis user of the time when a flush was told nothing,
    worker = worker_by_hand
    worker.store.client.acl_setuser(
        "old", enabled=True, nopass=True, keys=["*"], categories=["+@all"], reset_channels=True
    )
    url = settings.broker_url.replace("redis://", "redis://old:x@")
    gateway = make_gateway(Settings(broker_url=url, prefix=settings.prefix))
    say(gateway, "a")
    claim = worker.take()
    # I expect it to flush, with a word about it
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gateway.flush, session="a", timeout=30)
        wait_until(lambda: "forbids to subscribe" in caplog.text, 5, "the warning")
        worker.write(claim)
        assert waiting.result(5)
    assert caplog.text.count("forbids to subscribe") == 1
    # and to settle, if workers are such users
    old = Worker(Settings(broker_url=url, prefix=settings.prefix))
    say(gateway, "a")
    claim = old.take()
    old.store.watch(claim.session)
    old.write(claim)
    assert gateway.flush(session="a", timeout=1)
    old.close()
    worker.store.client.acl_deluser("old")


def test_closing_lets_everybody_go_at_once(
    make_gateway: Callable[..., TurnSync], worker_by_hand: Worker, only_by_event: None
) -> None:
    gateway = make_gateway()
    say(gateway, "a")
    say(gateway, "b")
    wait_until(lambda: gateway.pending == 0, 5, "the turns to be in Redis")
    with flushing(worker_by_hand.store, (gateway, "a"), (gateway, "b")) as waiting:
        gateway.close(1)
        for future in waiting:
            assert isinstance(future.exception(2), Closed)
    clients: Any = worker_by_hand.store.client.client_list(_type="pubsub")
    assert clients == []


def told(gateway: TurnSync, session: str) -> StillSyncing:
    with pytest.raises(StillSyncing) as caught:
        gateway.flush(session=session, timeout=0)
    return caught.value


def test_a_flush_says_what_its_turns_wait_for(
    make_gateway: Callable[..., TurnSync], worker_by_hand: Worker
) -> None:
    # Given three turns of one session, and one of another that the gate lets go,
    worker, gateway = worker_by_hand, make_gateway()
    say(gateway, "first")
    for _ in range(3):
        say(gateway, "a")
    wait_until(lambda: gateway.pending == 0, 5, "the turns to be in Redis")
    assert told(gateway, "a").reason == "no worker has run yet: start one"
    claim = worker.take()
    assert told(gateway, "a").reason == "no worker has been free to take them"
    assert told(gateway, "first").reason == "a worker is writing"
    go = worker.admit(claim)
    assert isinstance(go, Go)
    # if Honcho asks for a pause,
    worker.gate.report(go, Ended.LIMITED, 0.1, 30.0, why="HTTP 429")
    claim = worker.take()
    assert isinstance(worker.admit(claim), Hold)
    # I expect that, how many wait and for how long, and when to ask again
    error = told(gateway, "a")
    assert error.reason.startswith("Honcho asked for a pause until 20")
    assert error.reason.endswith(" (HTTP 429)")
    assert error.waiting == 3
    assert 29 < error.retry_after < 34
    assert error.oldest is not None
    assert 0 < error.oldest < 20
    assert str(error).startswith("3 turns wait to be written after 0.0 s, the oldest for ")
    assert f"ask again in {error.retry_after:.0f} s" in str(error)


def test_a_slow_flush_is_logged_without_content(
    make_gateway: Callable[..., TurnSync],
    worker_by_hand: Worker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(flush, "SLOW_SECONDS", 0.2)
    caplog.set_level(logging.INFO)
    gateway = make_gateway()
    say(gateway, "a")
    claim = worker_by_hand.take()
    with pytest.raises(StillSyncing):
        gateway.flush(session="a", timeout=0.25)
    writing = threading.Timer(0.3, worker_by_hand.write, (claim,))
    writing.start()
    assert gateway.flush(session="a", timeout=5)
    writing.join()  # the flush was told before the session was handed back
    monkeypatch.setattr(flush, "SLOW_SECONDS", 60.0)
    assert gateway.flush(session="a")  # this one is quick
    first, second = (r.getMessage() for r in caplog.records if r.name == flush.__name__)
    assert first.startswith("a flush of session default:w:a ran out of time: 1 turn waits")
    assert second.startswith("a flush of session default:w:a took 0.")
    assert SECRET not in caplog.text
