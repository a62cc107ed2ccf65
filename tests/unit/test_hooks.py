"""Hooks in one process: whatever they do, only a counter tells of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint

import pytest

from hermes_tasks import hooks
from hermes_tasks.testing.waiting import wait_until

TURN = {"turn_id": "t", "session": "s", "workspace": "w", "backend": "default"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in which nothing is connected and no hook was ever called."""
    monkeypatch.setattr(hooks, "_running", None)
    monkeypatch.setattr(hooks, "_entry_points", dict)
    yield
    hooks.turn_written.receivers.clear()


@pytest.fixture
def counted() -> Counter[str]:
    return Counter()


@pytest.fixture
def emit(counted: Counter[str]) -> Callable[[int], None]:
    """Says that so many turns are written."""

    def emit(times: int = 1) -> None:
        for number in range(times):
            hooks.emit(hooks.turn_written, counted.update, **TURN | {"turn_id": f"t{number}"})

    return emit


class Told:
    """A hook that notes which turns it was told of."""

    def __init__(self) -> None:
        self.turns: list[str] = []

    def __call__(self, turn_id: str, **_: object) -> None:
        self.turns.append(turn_id)


def test_where_nothing_is_registered_nothing_is_started(emit: Callable[..., None]) -> None:
    threads = threading.active_count()
    emit()
    assert threading.active_count() == threads
    assert hooks.drain(0)


def test_a_hook_is_called_in_the_order_of_events_and_not_by_who_emits(
    emit: Callable[..., None], counted: Counter[str]
) -> None:
    told, threads = Told(), set()

    @hooks.turn_written.connect
    def note(**event: object) -> None:
        threads.add(threading.current_thread())
        told(str(event.pop("turn_id")))
        assert event.pop("signal") is hooks.turn_written
        assert event == {"sender": None} | {k: v for k, v in TURN.items() if k != "turn_id"}

    emit(100)
    assert hooks.drain(10)
    assert told.turns == [f"t{number}" for number in range(100)]
    assert threading.current_thread() not in threads
    assert not counted


@pytest.mark.parametrize("error", [ValueError, TimeoutError, SystemExit, KeyboardInterrupt])
def test_a_hook_that_raises_is_counted_said_once_and_called_again(
    emit: Callable[..., None],
    counted: Counter[str],
    error: type[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Told()

    def wrong(**_: object) -> None:
        raise error("no")

    hooks.turn_written.connect(wrong)
    hooks.turn_written.connect(told, weak=False)
    emit(3)
    assert hooks.drain(10)
    assert told.turns == ["t0", "t1", "t2"]
    assert counted == {"hook_failed": 3}
    assert len(caplog.records) == 1


def test_a_hook_that_hangs_is_left_alone_until_it_returns(
    emit: Callable[..., None], counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "LIMIT", 0.1)
    told, late, go_on = Told(), Told(), threading.Event()

    def hang(turn_id: str, **_: object) -> None:
        go_on.wait(10)
        late(turn_id)

    hooks.turn_written.connect(hang)
    hooks.turn_written.connect(told, weak=False)
    emit(3)
    # The others are told meanwhile, and it is not called a second time
    assert hooks.drain(5)
    assert (told.turns, late.turns) == (["t0", "t1", "t2"], [])
    assert counted == {"hook_timeout": 1, "hook_dropped": 2}
    go_on.set()
    wait_until(lambda: not hooks._runner().hanging, 5.0, "it to return")
    emit()
    assert hooks.drain(5)
    assert late.turns == ["t0", "t0"]


def test_who_emits_waits_for_nobody(
    emit: Callable[..., None], counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "ROOM", 5)
    go_on = threading.Event()

    def slow(**_: object) -> None:
        go_on.wait(10)

    hooks.turn_written.connect(slow)
    began = time.monotonic()
    emit(50)
    assert time.monotonic() - began < 1
    assert not hooks.drain(0.05)
    go_on.set()
    assert hooks.drain(5)
    # One is being called, five wait
    assert 50 - 6 <= counted["hook_dropped"] <= 50 - 5


def test_what_could_not_be_counted_is_counted_later() -> None:
    counted, away = Counter[str](), [True]

    def count(by: Mapping[str, int]) -> None:
        if away[0]:
            raise ConnectionError
        counted.update(by)

    def wrong(**_: object) -> None:
        raise ValueError

    hooks.turn_written.connect(wrong)
    hooks.emit(hooks.turn_written, count, **TURN)
    assert hooks.drain(5)
    away[0] = False
    hooks.emit(hooks.turn_written, count, **TURN)
    assert hooks.drain(5)
    assert counted == {"hook_failed": 2}


def test_an_entry_point_that_cannot_be_loaded_is_one_that_fails(
    emit: Callable[..., None], counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("on_turn_written", "nowhere.to_be:found", hooks.GROUP)
    monkeypatch.setattr(hooks, "_entry_points", lambda: {entry.name: (entry,)})
    emit(2)
    assert hooks.drain(5)
    assert counted == {"hook_failed": 2}
