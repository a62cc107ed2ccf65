"""The event loop of a worker, which Celery resets when its connection is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from kombu.asynchronous import get_event_loop, set_event_loop

from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport.hub import CANCELLED, SessionHub


@pytest.fixture
def hub() -> Iterator[SessionHub]:
    """The current event loop."""
    before = get_event_loop()
    hub = SessionHub()
    set_event_loop(hub)
    yield hub
    hub.close()
    set_event_loop(before)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose reading end does not block."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_what_is_half_read_goes_on_after_a_reset_and_makes_room_when_it_is_done(
    hub: SessionHub, pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    read: list[bytes] = []

    def read_all() -> Iterator[None]:
        """As Celery reads an answer of its pool."""
        answer = os.read(reader, 4)
        while len(answer) < 4:
            yield
            answer += os.read(reader, 4 - len(answer))
        hub.add_reader(reader, begin)
        read.append(answer)

    def begin() -> None:
        rest = read_all()
        if next(rest, rest) is None:
            hub.add_reader(reader, rest)

    hub.add_reader(reader, begin)
    os.write(writer, b"on")
    next(hub.create_loop())
    hub.reset()
    hub.add_reader(reader, begin)  # as the pool does, which does not know what is half read
    os.write(writer, b"ce")
    next(hub.create_loop())
    assert read == [b"once"]
    assert hub.readers[reader][0] is begin
    hub.reset()
    assert hub.readers == {}


def test_the_loop_that_is_reset_stays_the_current_one(hub: SessionHub) -> None:
    """By it an acknowledgement knows that it may pop the next session."""
    hub.reset()
    assert get_event_loop() is hub


def test_timers_that_were_cancelled_are_not_kept(hub: SessionHub) -> None:
    called: list[int] = []
    for number in (3, 1, 2):
        hub.call_later(number / 1000, called.append, number)
    for _task in range(5 * CANCELLED):
        hub.call_later(600, called.append, 0).cancel()
        hub.fire_timers()
    assert len(hub.timer) <= CANCELLED + 1
    wait_until(lambda: hub.fire_timers() and len(called) == 3, 5.0, "the timers that were not")
    assert called == [1, 2, 3]
