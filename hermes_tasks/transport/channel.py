"""The channel: session queues beside the ordinary ones of Kombu's Redis transport."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import astuple
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2s
from itertools import count
from queue import Empty
from typing import Any

import redis
from kombu.asynchronous import get_event_loop
from kombu.exceptions import ChannelError
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from hermes_tasks.transport import celery_state, events, wire
from hermes_tasks.transport.answers import Claimed, Entry, Item, Outcome, PushAnswer
from hermes_tasks.transport.keeper import Holding, Keeper, Wanted, holding_of, keeper_for
from hermes_tasks.transport.keys import Names
from hermes_tasks.transport.options import SessionOptions
from hermes_tasks.transport.packing import pack_quickly
from hermes_tasks.transport.pushing import Push, collect, tell_drops
from hermes_tasks.transport.scripts import session_script
from hermes_tasks.transport.sessions import SessionStore, run_id_of
from hermes_tasks.transport.wire import SETTLE_HEADER

logger = logging.getLogger(__name__)

#: What the delivery tag of a session message begins with; the tag is the fencing token.
TOKEN_PREFIX = "session:"  # noqa: S105

#: Headers that steer the transport and are not part of the message.
TOKEN_HEADER = "session_token"  # noqa: S105
SIZE_HEADER = "session_size"
ALONE_HEADER = "session_alone"
UNANSWERED_HEADER = "session_unanswered"
SENDER_HEADERS = ("session_gateway", "session_number", "session_previous")

#: Seconds that a consumer may take for its next look at the run queue before it counts as standing
#: still: longer than a garbage collection or a slow claim.
STANDSTILL = 5.0

#: Seconds without an answer after which a connection is looked at before it is used.
IDLE = 1.0

#: What a server says that will not do anything now: a pop ended because it has become a replica, a
#: disk that is full, too few replicas, a script that runs too long. redis-py has no class for them.
REFUSALS = frozenset({"UNBLOCKED", "MISCONF", "NOREPLICAS", "BUSY"})

_answers: ContextVar[list[PushAnswer] | None] = ContextVar("push_answers", default=None)


@contextmanager
def push_answers() -> Iterator[list[PushAnswer]]:
    """Collect the answers of all pushes in the block: Kombu drops what ``_put`` returns."""
    answers: list[PushAnswer] = []
    token = _answers.set(answers)
    try:
        yield answers
    finally:
        _answers.reset(token)


class NotNow(ResponseError):
    """The server refuses everybody for a while; see :data:`REFUSALS`."""


class SessionQoS(kombu_redis.QoS):
    """Acknowledgements: a session message's is the end of its claim.

    Its in-flight copy is in the session, so Kombu's ``unacked`` is not used for it. What is held
    is found by tag in the process, not in the channel: a task may end after its channel did, and
    Kombu may reject a message through another channel than it came by.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        if delivery_tag.startswith(TOKEN_PREFIX):
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if not delivery_tag.startswith(TOKEN_PREFIX):
            super().ack(delivery_tag)
            return
        found = holding_of(delivery_tag)
        if found is None:
            virtual.QoS.ack(self, delivery_tag)
        else:
            keeper, holding = found
            outcome = self._outcome(delivery_tag, holding)
            virtual.QoS.ack(self, delivery_tag)
            taken = keeper.finish(delivery_tag, outcome, self.channel.wanted())
            if taken is not None:
                self.channel.deliver_taken(taken)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not delivery_tag.startswith(TOKEN_PREFIX):
            super().reject(delivery_tag, requeue=requeue)
            return
        found = holding_of(delivery_tag)
        if found is not None:
            found[0].finish(delivery_tag, Outcome.FAILED)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Give back what no pool process works on: at a shutdown, or when the channel is lost.

        What is being worked on stays held. Its lease is renewed until it ends, and a cold
        shutdown has killed its process, and so ended it, before the channel closes.
        """
        running = celery_state.running_tokens()
        for tag in [tag for tag in self._delivered if tag.startswith(TOKEN_PREFIX)]:
            self.give_back(tag, running)
        if self._delivered:  # without one, Kombu would still open a connection, and may not have it
            super().restore_unacked(client)

    def give_back(self, tag: str, running: Collection[str]) -> None:
        """Give one back that is not ``running``, unless it has ended, and free its slot."""
        self._delivered.pop(tag, None)
        found = None if tag in running else holding_of(tag)
        if found is not None and found[1].outcome is None:
            found[0].release([tag])

    def _outcome(self, tag: str, holding: Holding) -> Outcome:
        if holding.written:
            return Outcome.WRITTEN
        if holding.settles:
            return Outcome.SETTLED
        if not celery_state.is_revoked(holding.id):
            return Outcome.ENDED
        # Celery notes an expired task among the revoked ones.
        message = self._delivered.get(tag)
        expires = message is not None and message.headers.get("expires")
        return Outcome.EXPIRED if expires else Outcome.REVOKED


class SessionChannel(kombu_redis.Channel):
    """A Redis channel on which queues named ``<prefix>.session.<id>`` keep their order."""

    QoS = SessionQoS

    _sessions: SessionStore | None = None
    _keeper: Keeper | None = None
    #: Whether a delivered message was handed to a pool, and not run on the spot.
    _hands_over = False
    #: Lists of the ordinary queues that it consumes; ``None``: not known yet.
    _others: list[str] | None = None
    #: When it last tried to claim a session; monotonic.
    _claimed_at = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._options = SessionOptions.from_transport_options(
            self.connection.client.transport_options
        )
        self._names = Names(self._options.prefix, self.global_keyprefix)
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def new_store(self, *, single: bool = False) -> SessionStore:
        """A store over this channel's connection pool; ``single``: over one connection of it."""
        client = redis.Redis(connection_pool=self.pool, single_connection_client=single)
        return SessionStore(client, self._names, self._options)

    @property
    def sessions(self) -> SessionStore:
        """The store of this channel; a new one after the pool was replaced, as a fork does."""
        if self._sessions is None or self._sessions.client.connection_pool is not self.pool:
            self._sessions = self.new_store()
        return self._sessions

    @property
    def keeper(self) -> Keeper:
        """The keeper of this process, running."""
        if self._keeper is None:
            self._keeper = keeper_for(self.connection.client, self.sessions)
        self._keeper.start()
        return self._keeper

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        connection_class: Any = parameters["connection_class"]
        options = self.connection.client.transport_options
        meet, made = options.get("session_meet"), options.get("session_made")

        class Connection(connection_class):
            """Tells errors of the server's state, which pass, from those of a command.

            And finds out before a command that the server has closed it meanwhile: a pool process
            keeps one connection, through every restart of Redis, and no turn must fail for that.
            """

            def __init__(self, **kwargs: Any) -> None:
                self._heard_at = 0.0
                super().__init__(**kwargs)
                pack_quickly(self)
                if meet is not None:
                    self.register_connect_callback(self._met)
                if made is not None:
                    made(self)

            def _met(self, _connection: Any) -> None:
                """Say which server answers before anything is sent to it."""
                try:
                    self.send_command("INFO", "server", check_health=False)
                    meet(run_id_of(self.read_response()))
                except BaseException:
                    self.disconnect()
                    raise

            def check_health(self) -> None:
                """What redis-py does before it sends a command; so nothing is to be repeated."""
                if time.monotonic() - self._heard_at > IDLE and self._is_closed():
                    self.disconnect()
                    self.connect()
                super().check_health()

            def _is_closed(self) -> bool:
                try:
                    # Nothing was asked: there is something to be read only where it was closed.
                    return self._sock is not None and bool(self.can_read())
                except RedisConnectionError:
                    return True

            def read_response(self, *args: Any, **kwargs: Any) -> Any:
                self._heard_at = time.monotonic()
                try:
                    return super().read_response(*args, **kwargs)
                except ResponseError as error:
                    if str(error).partition(" ")[0] in REFUSALS:
                        raise NotNow(str(error)) from None
                    raise

        parameters["connection_class"] = Connection
        return parameters

    # -- publishing --------------------------------------------------------------------------

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        session = self._names.session_of(queue)
        if session is None:
            super()._put(queue, message, **kwargs)
            return
        text, options = _prepare(message, queue)
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            # EVAL, not EVALSHA: in a pipeline nobody sends the text again after a SCRIPT FLUSH.
            keys = self._names.session(session)
            arguments = self.sessions.push_arguments(text, **options)
            batch.add("eval", session_script("push").text, len(keys), *keys, session, *arguments)
            return
        if collect(Push(session, text, options)):
            return
        answer = self.sessions.push(session, text, **options)
        tell_drops(self.sessions, session, answer)
        answers = _answers.get()
        if answers is not None:
            answers.append(answer)

    # -- consuming ---------------------------------------------------------------------------

    @property
    def is_consuming(self) -> bool:
        """Whether it takes run-queue entries, or has taken as many as it may.

        One whose consumer was cancelled, or whose event loop stands still, does not.
        """
        if self._names.run_queue not in self._active_queues or self._closing:
            return False
        if not self.qos.can_consume():
            return True
        # Kombu ends each BRPOP after a while, and sends another.
        polled: float | None = getattr(self, "_brpop_sent_at", None)
        latest = max(self._claimed_at, polled or 0.0)
        return time.monotonic() - latest < (self.brpop_timeout or 0) + STANDSTILL

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], Any],
        consumer_tag: str,
        **kwargs: Any,
    ) -> Any:
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        self._others = None
        if queue == self._names.run_queue:
            self.sessions.note_server()
            self.keeper.start()

            def deliver(taken: Any) -> Any:
                claimed = isinstance(taken, Claimed)
                message = self._message(taken) if claimed else self._claim(taken)
                if message is not None:
                    self._hand_over(message, callback)

            self.connection._callbacks[queue] = deliver
        return result

    def basic_cancel(self, consumer_tag: str) -> Any:
        # A signal may call this in the middle of anything: nothing here may wait, or ask Redis.
        result = super().basic_cancel(consumer_tag)
        self._others = None
        return result

    def close(self) -> None:
        if self._keeper is not None:
            with suppress(RedisError):  # its thread tries again
                self._keeper.give_back_reserved()
        super().close()

    def _hand_over(self, message: Any, callback: Callable[[Any], Any]) -> None:
        """Give a message to Celery, whose worker a body of the wrong shape would end."""
        reserved = celery_state.reserved()
        # One that it refuses is acknowledged right here. If that brought the next, which it refuses
        # as well, a few hundred of them would be one call within the other.
        self._hands_over = False
        try:
            callback(message)
        except Exception as error:
            # Kombu counts KeyError, which Celery may raise for want of something in a message.
            if isinstance(error, self.connection_errors) and not isinstance(error, KeyError):
                # Handed over with an acknowledgement, it would keep its slot: nobody looks back.
                self.qos.give_back(message.delivery_tag, celery_state.running_tokens())
                raise
            # One message must not stop the others.
            logger.error(
                "Cannot run message %s: %s", message.headers.get("id"), type(error).__name__
            )
            message.reject()
        else:
            self._hands_over = celery_state.reserved() > reserved

    def wanted(self) -> Wanted | None:
        """Whether an acknowledgement, which has just freed a slot, should bring the next batch.

        Only in a worker's event loop, and not where the solo pool would run the task right here:
        the loop would then sleep on its acknowledgement. A BRPOP that is on its way has a slot of
        its own: Kombu sends one only while there is another.
        """
        if (
            self._closing
            or not self._hands_over
            or self._names.run_queue not in self._active_queues
            or get_event_loop() is None
        ):
            return None
        if not self.qos.can_consume():  # it has fewer slots than before
            return None
        if self._others is None:
            self._others = [
                self.global_keyprefix + self._q_for_pri(queue, priority)
                for queue in self.active_queues
                if queue != self._names.run_queue
                for priority in self.priority_steps
            ]
        taken = len(self.qos._delivered) - len(self.qos._dirty) + 1
        full = 0 < self.qos.prefetch_count <= taken
        return Wanted(_new_token(), self._worker, self._others, full)

    def deliver_taken(self, taken: Claimed | bytes) -> None:
        """Work on what came with an acknowledgement: a claim, or an entry that is to be claimed."""
        self._claimed_at = time.monotonic()
        queue = self._names.run_queue
        if isinstance(taken, bytes):
            self.connection._deliver(_decoded(taken), queue)
        elif queue in self.connection._callbacks:
            self.connection._deliver(taken, queue)
        else:  # a signal came while Redis answered, and has cancelled the consumer
            self.keeper.add(taken, settles=True)
            self.keeper.release([taken.token])

    def _brpop_read(self, **options: Any) -> Any:
        self.connection.delivering = False
        try:
            return super()._brpop_read(**options)
        except (Empty, RedisError, *self.connection_errors):
            raise
        except Exception as error:
            if self.connection.delivering:
                raise
            # Kombu could not decode what somebody else pushed. It must not stop the worker.
            logger.error("Dropped a malformed entry of a queue: %s", type(error).__name__)
            raise Empty from error

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        if self._names.session_of(queue) is not None:
            raise ChannelError(f"{queue} is consumed through {self._names.run_queue}")
        if queue != self._names.run_queue:
            return super()._get(queue)
        entry: Any = self.sessions.client.rpop(self._names.run)
        message = self._claim(_decoded(entry)) if entry else None
        if message is None:
            raise Empty
        return message._raw

    def _claim(self, entry: Any) -> Any:
        """The message to deliver for a popped run-queue entry, or ``None``."""
        try:
            found = Entry.of(entry)
        except ValueError:
            logger.error("Dropped a malformed entry of %s", self._names.run)
            return None
        if self._closing:  # Kombu reads the last answer while it closes: too late to work on it
            self.sessions.give_back(str(found))
            return None
        self._claimed_at = time.monotonic()
        token = _new_token()
        try:
            claim = self.sessions.claim(found.session, found.number, token, self._worker)
        except self.connection_errors:
            self.keeper.give_back(found, token)
            raise
        except (RedisError, ValueError) as error:
            # Celery would stop the worker. The session is still ready, or its lease runs out:
            # rescue queues it again.
            logger.error("Cannot claim session %s, will try again: %s", found.session, error)
            return None
        return None if claim is None else self._message(claim)

    def _message(self, claim: Claimed) -> Any:
        """The Celery message of a claim; held from here on."""
        head = claim.items[0]
        limit = self.sessions.options.message_limit
        reason = ""
        if limit and len(head.message) > limit:
            reason = "oversized"
        else:
            try:
                message = self._read(claim)
            except Exception:  # noqa: BLE001 - Kombu's decoders raise whatever they like
                reason = "malformed"
        if reason:
            logger.error("Message %s of session %s is %s", head.id, claim.session, reason)
            trace = self.sessions.bury(claim.session, claim.token, head.id, reason=reason)
            if trace is not None:
                events.dropped(self.sessions, claim.session, [head.id], reason)
            self.sessions.complete(claim.session, claim.token, Outcome.ENDED)
            return None
        headers = message.headers
        settles = headers.get(SETTLE_HEADER) != "commit"
        self.keeper.add(claim, settles=settles)
        if celery_state.acknowledges_early(headers.get("task", "")):
            logger.error(
                "Task %s was sent to a session queue without acks_late: Celery would acknowledge "
                "it before it runs and order would be lost. Give it acks_late=True.",
                headers.get("task"),
            )
            self.keeper.finish(claim.token, Outcome.FAILED)
            return None
        self.qos.append(message, claim.token)
        return message

    def _read(self, claim: Claimed) -> Any:
        """The Celery message of a claim; raises whatever there is to raise if it is none."""
        head = claim.items[0]
        payload = wire.unpack(head.message.decode(), self._names.queue(claim.session))
        headers, properties = payload["headers"], payload["properties"]
        if "task" not in headers:  # Celery would look for one in the body, and log what is there
            raise ValueError("no task")
        headers[TOKEN_HEADER] = properties["delivery_tag"] = claim.token
        properties["delivery_info"]["redelivered"] = claim.again or claim.attempts > 0
        properties["session"] = {
            "name": claim.session,
            "token": claim.token,
            "number": head.number,
            "attempts": claim.attempts,
            "tries": claim.tries,
            "now": claim.now,
            "doubt": claim.doubt and astuple(claim.doubt),
            "forgotten": claim.forgotten,
            "rewritten": claim.rewritten,
            "accepted": head.accepted,
            "followers": list(_followers(claim.items[1:], self.sessions.options.message_limit)),
        }
        return self.Message(payload, channel=self)

    # -- queues as Kombu sees them -----------------------------------------------------------

    def _size(self, queue: str) -> int:
        session = self._names.session_of(queue)
        if session is None:
            return int(super()._size(queue))
        progress = self.sessions.progress(session)
        return progress.inflight + progress.waiting + progress.backlog

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        if self._names.session_of(queue) is None:
            return bool(super()._has_queue(queue, **kwargs))
        return self._size(queue) > 0

    def _purge(self, queue: str) -> int:
        """Purging a session drops what waits in it; purging the run queue drops no message."""
        session = self._names.session_of(queue)
        return int(super()._purge(queue)) if session is None else self.sessions.purge(session)


_numbers = count()
_process = uuid.uuid4().hex


def _new_token() -> str:
    """A token that no claim ever had; asking the system for chance takes longer than a number."""
    return f"{TOKEN_PREFIX}{_process}.{next(_numbers)}"


def _after_fork_in_child() -> None:
    global _process
    _process = uuid.uuid4().hex


os.register_at_fork(after_in_child=_after_fork_in_child)


def _decoded(entry: bytes) -> Any:
    """A run-queue entry, or ``None`` for what somebody else put there."""
    try:
        return loads(entry)
    except Exception:  # noqa: BLE001 - Kombu's decoders of typed JSON raise whatever they like
        return None


def _followers(items: Iterable[Item], limit: int) -> Iterator[tuple[int, str, str, int]]:
    """What is written with a head, up to the first message that must be a head.

    A revoked one must, for Celery to announce and acknowledge it; one that is no text or too long,
    to be given up without those before it.
    """
    for item in items:
        if celery_state.is_revoked(item.id) or (limit and len(item.message) > limit):
            return
        try:
            text = item.message.decode()
        except UnicodeDecodeError:
            return
        yield item.number, item.id, text, item.accepted


def _prepare(message: dict[str, Any], queue: str) -> tuple[str, dict[str, Any]]:
    """The text of a message as it is stored, and the options of its push."""
    headers = dict(message["headers"])
    properties = message["properties"]
    token = headers.pop(TOKEN_HEADER, None) or ""
    gateway, number, previous = (headers.pop(name, None) for name in SENDER_HEADERS)
    alone = headers.pop(ALONE_HEADER, False)
    if headers.pop(UNANSWERED_HEADER, False):
        properties = {name: value for name, value in properties.items() if name != "reply_to"}
    size = int(headers.pop(SIZE_HEADER, None) or 1)
    # An ETA would park the message, and with it the session, in a worker's memory.
    delay = _delay(headers.get("eta"))
    headers["eta"] = None
    batchable = headers.get(SETTLE_HEADER) == "commit" and not (
        alone or delay or headers.get("expires")
    )
    kind = _kind(
        str(headers.get("task")), str(message["content-type"]), str(message["content-encoding"])
    )
    text = wire.pack({**message, "headers": headers, "properties": properties}, queue)
    return text, {
        "id": str(headers.get("id") or properties["delivery_tag"]),
        "size": size,
        "kind": kind if batchable else "-",
        "delay": delay,
        "token": token,
        "sender": str(gateway or "-"),
        "sent": int(number or 0),
        "previous": None if previous is None else int(previous),
    }


def _delay(eta: str | None) -> float:
    """Seconds until an ETA by the publisher's clock, on which it was computed."""
    if not eta:
        return 0.0
    when = datetime.fromisoformat(eta)
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


@lru_cache(maxsize=256)
def _kind(task: str, content_type: str, content_encoding: str) -> str:
    """What messages must share to share a batch, in eight characters."""
    text = f"{task}\n{content_type}\n{content_encoding}"
    return blake2s(text.encode(), digest_size=4).hexdigest()
