"""What an acknowledgement brings with it, on a real Redis, without a worker around the channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kombu
import pytest
import redis
from celery import Celery
from celery.worker import state
from kombu.asynchronous import Hub, get_event_loop, set_event_loop

from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.transport import session_queue
from hermes_tasks.transport.channel import SessionChannel, logger
from hermes_tasks.transport.sessions import PLENTY

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

SLOTS = 2


class Consumer:
    """Stands for Celery's worker: takes on what is delivered, and acknowledges it when told to."""

    def __init__(self, app: Celery, connection: kombu.Connection) -> None:
        self._app = app
        self.channel: SessionChannel = connection.default_channel
        self.taken: list[Any] = []
        #: Whether messages are refused, and acknowledged at once, as those that cannot be decoded.
        self.refuses = False
        #: What Celery stumbles over as it takes a message on.
        self.fails: Exception | None = None
        self.refused = self.depth = self.deepest = 0
        self.channel.basic_qos(0, SLOTS, False)
        self.channel.basic_consume(self.channel.sessions.names.run_queue, False, self._take, "tag")

    def send(self, sessions: int) -> None:
        """One message to each of so many sessions."""
        prefix = self.channel.sessions.names.prefix
        with kombu.Producer(self.channel) as producer:
            for number in range(sessions):
                queue = session_queue(f"s{number}", prefix)
                self._app.send_task("any", queue=queue, producer=producer)

    def pop(self) -> None:
        """What comes of a BRPOP."""
        entry = self.channel.sessions.client.rpop(self.channel.sessions.names.run)
        assert isinstance(entry, bytes)
        self.channel.deliver_taken(entry)

    def acknowledge(self) -> None:
        """The oldest that was taken is done."""
        message = self.taken.pop(0)
        state.reserved_requests.discard(message)
        message.ack_log_error(logger, self.channel.connection_errors)

    def _take(self, message: Any) -> None:
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        if self.fails is not None:
            raise self.fails
        if self.refuses:
            self.refused += 1
            message.ack()
        else:
            self.taken.append(message)
            state.reserved_requests.add(message)
        self.depth -= 1


@pytest.fixture
def consumer(settings: Settings) -> Iterator[Consumer]:
    before = get_event_loop()
    set_event_loop(Hub())
    app = make_app(settings, set_as_current=False)
    with app.connection_for_read() as connection:
        consumer = Consumer(app, connection)
        yield consumer
        for message in consumer.taken:
            state.reserved_requests.discard(message)
        consumer.channel.keeper.stop()
    set_event_loop(before)


def test_an_acknowledgement_brings_the_next_while_there_is_a_slot_for_it(
    consumer: Consumer,
) -> None:
    consumer.send(9)
    consumer.pop()
    # A BRPOP is on its way, to fill the other slot.
    consumer.channel._in_poll = True
    consumer.acknowledge()
    assert len(consumer.taken) == 1
    consumer.channel._in_poll = None
    consumer.pop()
    for _ in range(3):
        consumer.acknowledge()
        assert len(consumer.taken) == SLOTS


def test_what_it_ends_goes_to_others_unless_it_has_no_other_slot(consumer: Consumer) -> None:
    store = consumer.channel.sessions
    consumer.send(1)
    consumer.send(1)
    consumer.pop()
    consumer.acknowledge()
    # A worker that has waited for it is now given it.
    assert consumer.taken == []
    assert store.client.llen(store.names.run) == 1

    consumer.channel.basic_qos(0, 1, False)
    consumer.send(1)
    consumer.pop()
    consumer.acknowledge()
    assert len(consumer.taken) == 1


def test_what_comes_when_a_signal_has_cancelled_the_consumer_is_given_back(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold shutdown cancels it in the handler, while Redis answers."""
    store = consumer.channel.sessions
    client: Any = consumer.channel.keeper._front.client
    parse = client.parse_response
    claims = 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal claims
        answer = parse(*arguments, **options)
        if isinstance(answer, list) and len(answer) == 4 and answer[1]:  # a claim, by exchange
            claims += 1
            consumer.channel.basic_cancel("tag")
        return answer

    monkeypatch.setattr(client, "parse_response", interrupted)
    sessions = PLENTY + 9
    consumer.send(sessions)
    consumer.pop()
    while not claims:
        consumer.acknowledge()
    assert consumer.taken == []
    found = [store.progress(f"s{number}") for number in range(sessions)]
    assert {(one.state, one.attempts) for one in found} == {("idle", 0), ("ready", 0)}


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), redis.ConnectionError("gone")])
def test_what_cannot_be_handed_over_for_want_of_a_connection_keeps_no_slot(
    consumer: Consumer, error: Exception
) -> None:
    store = consumer.channel.sessions
    consumer.channel.basic_qos(0, 1, False)
    consumer.send(2)
    consumer.pop()
    consumer.fails = error
    consumer.acknowledge()
    assert consumer.taken == []
    assert consumer.channel.qos.can_consume()
    assert not consumer.channel.keeper.tokens
    progress = store.progress("s1")
    assert (progress.state, progress.attempts) == ("ready", 0)


def test_what_celery_stumbles_over_is_refused_and_keeps_no_slot(consumer: Consumer) -> None:
    """Kombu counts a KeyError among the errors of a connection."""
    consumer.channel.basic_qos(0, 1, False)
    consumer.send(2)
    consumer.pop()
    consumer.fails = KeyError("id")
    consumer.acknowledge()
    assert consumer.channel.qos.can_consume()
    assert not consumer.channel.keeper.tokens
    assert consumer.channel.sessions.progress("s1").attempts == 1


def test_a_worker_that_may_take_fewer_takes_none_until_it_has_fewer(consumer: Consumer) -> None:
    consumer.send(9)
    for _ in range(SLOTS):
        consumer.pop()
    consumer.channel.basic_qos(0, SLOTS - 1, False)
    for _ in range(2):
        consumer.acknowledge()
        assert len(consumer.taken) == SLOTS - 1


def test_what_is_refused_at_once_does_not_bring_the_next_from_within(consumer: Consumer) -> None:
    consumer.send(30)
    consumer.pop()
    consumer.refuses = True
    consumer.acknowledge()
    assert (consumer.refused, consumer.deepest) == (1, 1)
    for _ in range(20):
        consumer.pop()
    assert (consumer.refused, consumer.deepest) == (21, 1)
