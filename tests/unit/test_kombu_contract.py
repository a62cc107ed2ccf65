"""What the transport relies on in Kombu 5.7, Celery 5.7 and redis-py, asked of the real things.

Nothing of ours is tested here. When one of them changes, the name of the failing test says what our
transport must do without; the module named in its docstring is where it is relied on.
"""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import Iterator
from queue import Empty
from types import SimpleNamespace
from typing import Any, ClassVar

import billiard
import kombu
import pytest
import redis
from celery import Celery, bootsteps
from celery.app.task import Context
from celery.backends.base import Backend, DisabledBackend
from celery.contrib.testing.worker import start_worker
from celery.events import EventDispatcher
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu import Exchange, Queue
from kombu.connection import ConnectionPool, PooledConnection
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError

from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until


@pytest.fixture(scope="module")
def broker() -> Iterator[Server]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def server(broker: Server) -> Server:
    """One server for all tests here, empty."""
    with broker.client() as client:
        client.flushdb()
    return broker


# -- Kombu's classes, with notes of what is called -------------------------------------------------


SET = "return redis.call('SET', KEYS[1], ARGV[1])"


class NotingQoS(kombu_redis.QoS):
    """Notes each ``restore_unacked``, ``ack`` and ``reject``."""

    def restore_unacked(self, client: Any = None) -> Any:
        self.channel.notes.append("restore_unacked")
        return super().restore_unacked(client)

    def ack(self, delivery_tag: str) -> None:
        self.channel.notes.append(("ack", delivery_tag))
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self.channel.notes.append(("reject", delivery_tag, requeue))
        super().reject(delivery_tag, requeue=requeue)


class NotingChannel(kombu_redis.Channel):
    """Notes what is put, read and flushed."""

    QoS = NotingQoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.notes: list[Any] = []
        super().__init__(*args, **kwargs)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        self.notes.append(("put", queue, message, kwargs))
        if queue == "script":
            kwargs["_publish_batch"].add("eval", SET, 1, "key", "value")
        else:
            super()._put(queue, message, **kwargs)

    def _brpop_read(self, **options: Any) -> Any:
        self.notes.append(("read", self._closing))
        return super()._brpop_read(**options)

    def _flush_brpop_reauth(self) -> None:
        self.notes.append("flush")
        super()._flush_brpop_reauth()


class NotingTransport(kombu_redis.Transport):
    """Notes what is delivered."""

    Channel = NotingChannel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.delivered: list[Any] = []

    def _deliver(self, message: Any, queue: str) -> None:
        self.delivered.append((message, queue))


@pytest.fixture
def connection(server: Server) -> Iterator[kombu.Connection]:
    options = {"session_anything": 7}
    with kombu.Connection(
        server.url, transport=NotingTransport, transport_options=options
    ) as connection:
        yield connection


@pytest.fixture
def channel(connection: kombu.Connection) -> Any:
    return connection.default_channel


def undeclared(name: str) -> Queue:
    return Queue(name, Exchange(""), routing_key=name, no_declare=True, durable=False)


def consume(channel: Any, queue: str) -> list[Any]:
    """Consume, and start the BRPOP; the messages that arrive."""
    arrived: list[Any] = []
    channel.basic_consume(queue, False, arrived.append, "tag")
    return arrived


# -- publishing ------------------------------------------------------------------------------------


def test_publishing_calls_put_with_queue_and_message_and_leaves_no_binding(
    channel: Any, redis_client: redis.Redis
) -> None:
    """``channel.SessionChannel._put``"""
    kombu.Producer(channel).publish(
        {"a": 1}, exchange="", routing_key="q", declare=[undeclared("q")], headers={"id": "x"}
    )
    ((what, queue, message, kwargs),) = channel.notes
    assert (what, queue) == ("put", "q")
    assert not kwargs.get("_publish_batch")
    assert set(message) == {"body", "content-encoding", "content-type", "headers", "properties"}
    assert message["headers"] == {"id": "x"}
    assert message["properties"]["delivery_tag"]
    assert message["properties"]["delivery_info"]["routing_key"] == "q"
    assert redis_client.keys() == [b"q"]


def test_a_publish_batch_reaches_put_as_publish_batch_and_takes_any_command(
    channel: Any, redis_client: redis.Redis
) -> None:
    """``channel.SessionChannel._put``"""
    batch = channel.create_publish_batch(10)
    batch.publish(channel.prepare_message("{}"), exchange="", routing_key="q")
    batch.publish(channel.prepare_message("{}"), exchange="", routing_key="script")
    assert [note[3]["_publish_batch"] for note in channel.notes] == [batch, batch]
    assert redis_client.keys() == []
    batch.flush()
    batch.close()
    assert redis_client.get("key") == b"value"
    assert redis_client.llen("q") == 1


# -- consuming -------------------------------------------------------------------------------------


def test_the_callback_of_a_queue_stands_in_transport_callbacks_until_it_is_cancelled(
    channel: Any,
) -> None:
    """``channel.SessionChannel.basic_consume``"""
    consume(channel, "q")
    assert callable(channel.connection._callbacks["q"])
    assert channel._active_queues == channel.active_queues == ["q"]
    channel.basic_cancel("tag")
    assert "q" not in channel.connection._callbacks
    assert channel in channel.connection.channels


def test_what_brpop_pops_is_decoded_from_json_and_delivered_with_its_queue(
    connection: kombu.Connection, channel: Any, redis_client: redis.Redis
) -> None:
    """``transport._SessionTransport._deliver``"""
    consume(channel, "q")
    redis_client.lpush("q", json.dumps(["7", "session"]))
    connection.drain_events(timeout=5)
    assert connection.transport.delivered == [(["7", "session"], "q")]
    assert channel._in_poll is None
    assert channel.notes[-1] == "flush"


def test_an_entry_that_is_no_json_raises_out_of_brpop_read_which_still_tidies_up(
    connection: kombu.Connection, channel: Any, redis_client: redis.Redis
) -> None:
    """``channel.SessionChannel._brpop_read``"""
    consume(channel, "q")
    redis_client.lpush("q", "no json")
    with pytest.raises(ValueError, match="Expecting value"):
        connection.drain_events(timeout=5)
    assert channel._in_poll is None
    assert channel.notes[-1] == "flush"


def test_a_key_error_counts_as_a_lost_connection() -> None:
    """``channel.SessionChannel._claim`` lets none out."""
    assert KeyError in kombu_redis.Transport.connection_errors
    assert issubclass(ReadOnlyError, ResponseError)
    assert issubclass(OutOfMemoryError, ResponseError)


def test_an_empty_get_raises_empty(channel: Any) -> None:
    """``channel.SessionChannel._get``"""
    with pytest.raises(Empty):
        channel._get("q")


def test_closing_a_channel_reads_the_last_brpop_with_closing_set(
    connection: kombu.Connection, channel: Any, redis_client: redis.Redis
) -> None:
    """``channel.SessionChannel._claim``"""
    consume(channel, "q")
    connection.transport.cycle.on_poll_start()
    redis_client.lpush("q", "{}")
    channel.close()
    assert ("read", True) in channel.notes


def test_a_lost_or_closed_channel_restores_unacked_messages_once(
    connection: kombu.Connection, channel: Any
) -> None:
    """``channel.SessionQoS.restore_unacked``"""
    kombu.Producer(channel).publish({}, exchange="", routing_key="q")
    channel.basic_get("q")
    channel.close()
    connection.close()
    assert channel.notes.count("restore_unacked") == 1
    channel._disconnect_pools()  # Kombu has opened another connection to put it back


def test_the_books_of_virtual_qos_are_delivered_and_dirty(channel: Any) -> None:
    """``channel.SessionQoS``"""
    qos = channel.qos
    qos.prefetch_count = 1
    virtual.QoS.append(qos, "message", "tag")
    assert qos._delivered == {"tag": "message"}
    assert not qos.can_consume()
    virtual.QoS.ack(qos, "tag")
    assert qos.can_consume()
    virtual.QoS.append(qos, "next", "next")
    assert qos._delivered == {"next": "next"}
    virtual.QoS.ack(qos, "next")


def test_a_message_acks_and_rejects_by_its_delivery_tag(channel: Any) -> None:
    """``channel.SessionChannel._message``"""
    payload = {
        "headers": {"id": "x"},
        "properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}},
    }
    first, second = (channel.Message(payload, channel=channel) for _ in range(2))
    assert first._raw is payload
    assert first.headers == {"id": "x"}
    first.ack()
    second.reject_log_error(None, ())
    assert channel.notes == [("ack", "t"), ("reject", "t", False)]


def test_the_poller_of_a_transport_is_its_cycle_and_knows_its_channels(channel: Any) -> None:
    """``transport.SessionPoller``"""
    poller = channel.connection.cycle
    assert isinstance(poller, kombu_redis.MultiChannelPoller)
    assert channel in poller._channels
    assert list(inspect.signature(poller.get).parameters) == ["callback", "timeout"]


def test_a_queue_is_read_from_a_list_for_each_priority(channel: Any) -> None:
    """``channel.SessionChannel.wanted``"""
    names = [channel._q_for_pri("q", priority) for priority in channel.priority_steps]
    assert names == ["q", "q\x06\x163", "q\x06\x166", "q\x06\x169"]
    assert channel.global_keyprefix == ""


def test_a_forked_process_makes_its_channels_new_pools(channel: Any) -> None:
    """``channel.SessionChannel.sessions``"""
    assert channel.pool is channel._pool

    def child() -> None:
        raise SystemExit(0 if channel._pool is None and channel._async_pool is None else 1)

    process = billiard.get_context("fork").Process(target=child)
    process.start()
    process.join(10)
    assert process.exitcode == 0


def test_transport_options_of_any_name_reach_the_channel(channel: Any) -> None:
    """``sessions.SessionOptions.from_transport_options``"""
    assert channel.connection.client.transport_options["session_anything"] == 7


def test_global_keyprefix_prefixes_only_the_first_key_of_a_script(server: Server) -> None:
    """``keys.Names.global_keyprefix``"""
    options = {"global_keyprefix": "x:"}
    with kombu.Connection(server.url, transport_options=options) as connection:
        client = connection.default_channel.client
        sha = client.script_load("return KEYS")
        assert client.evalsha(sha, 2, "a", "b") == [b"x:a", b"b"]
        assert client.eval("return KEYS", 1, "a") == [b"a"]


# -- connections -----------------------------------------------------------------------------------


class NotingConnection(kombu.Connection):
    """Notes from what its parameters are set."""

    resolve_aliases: ClassVar = {**kombu.Connection.resolve_aliases, "redis": "shown"}
    notes: ClassVar[list[Any]] = []

    def _init_params(self, *args: Any, **params: Any) -> None:
        self.notes.append(params["transport"])
        super()._init_params(*args, **params)


def test_a_connection_sets_its_transport_by_init_params_when_made_switched_and_cloned() -> None:
    """``transport.SessionConnection._init_params``"""
    NotingConnection.notes.clear()
    with NotingConnection("redis://h:1;redis://i:2") as connection:
        connection.maybe_switch_next()
        assert connection.hostname == "i"
        connection.clone()
        assert NotingConnection.notes == ["redis"] * 3
        assert connection.as_uri() == "shown://:**@i:2//"


def test_a_socket_url_sets_the_transport_of_its_prefix() -> None:
    """``transport.SessionConnection._init_params``"""
    NotingConnection.notes.clear()
    NotingConnection("redis+socket:///tmp/s", transport="another")
    assert NotingConnection.notes == ["redis"]


def test_a_pool_makes_pooled_connections_from_the_unresolved_info_of_its_connection() -> None:
    """``transport.SessionConnectionPool``"""
    pool = kombu.Connection("redis://h:1").Pool(limit=2)
    assert type(pool) is ConnectionPool
    made = pool.new()
    assert type(made) is PooledConnection
    assert made.transport_cls == "redis"
    assert list(inspect.signature(PooledConnection.__init__).parameters)[:2] == ["self", "pool"]


def test_a_sentinel_pool_asks_its_manager_for_the_master_through_discover_master() -> None:
    """``transport._one_at_a_time``"""
    make: Any = redis.Sentinel
    manager = make([("127.0.0.1", 1)])
    manager.discover_master = lambda name: (name, 6379)
    assert manager.master_for("turns").connection_pool.get_master_address() == ("turns", 6379)
    parameters = inspect.signature(kombu_redis.SentinelChannel._sentinel_managed_pool).parameters
    assert list(parameters) == ["self", "asynchronous"]


def test_rediss_takes_its_certificates_from_connection_ssl(server: Server) -> None:
    """``transport.TLSTransport``"""
    with kombu.Connection(server.url) as connection:
        channel = connection.default_channel
        connection.ssl = {"ssl_ca_certs": "/authority"}
        params = channel._connparams()
    assert params["ssl_ca_certs"] == "/authority"
    assert issubclass(params["connection_class"], redis.SSLConnection)


# -- redis-py --------------------------------------------------------------------------------------


def test_an_unknown_script_raises_no_script_error(redis_client: redis.Redis) -> None:
    """``scripts.Script``"""
    with pytest.raises(NoScriptError):
        redis_client.evalsha("0" * 40, 1, "key")


def test_a_single_connection_client_keeps_its_connection(server: Server) -> None:
    """``channel.SessionChannel.new_store``"""
    with server.client(single_connection_client=True) as client:
        assert client.client_id() == client.client_id()
        assert client.connection is not None


# -- Celery ----------------------------------------------------------------------------------------


class NotingRequest(Request):
    """Notes what a request is told and asked for."""

    seen: ClassVar[list[Any]] = []

    def send_event(self, type: str, **fields: Any) -> None:
        self.seen.append(SimpleNamespace(type=type, fields=fields, request=self))
        super().send_event(type, **fields)


class NotingConsumer(Consumer):
    """Notes which hook gets a message that cannot run."""

    seen: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self.seen["unknown_message"] = (body, message)
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self.seen["unknown_task"] = (body, message, exc)
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self.seen["invalid_task"] = (body, message, exc)
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self.seen["decode_error"] = (message, exc)
        super().on_decode_error(message, exc)


SEEN: dict[str, Any] = {}


@pytest.fixture(scope="module")
def celery_app(broker: Server) -> Celery:
    """An app whose one worker has run a task and met one message of each bad kind."""
    app = Celery("contract", broker=broker.url, set_as_current=False)
    app.conf.update(
        task_default_queue="contract",
        worker_consumer=f"{__name__}:NotingConsumer",
        accept_content=["json"],
        worker_send_task_events=True,
        broker_connection_retry_on_startup=True,
    )

    @app.task(bind=True, acks_late=True, name="work", Request=f"{__name__}:NotingRequest")
    def work(self: Any, secret: str) -> dict[str, Any]:
        SEEN["request"] = dict(vars(self.request))
        SEEN["running"] = [r.message.delivery_tag for r in state.active_requests]
        SEEN["reserved"] = len(state.reserved_requests)
        SEEN["retry"] = self.signature_from_request(self.request, countdown=3).options
        return {"dead": ["t-1"]}

    NotingRequest.seen.clear()
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        publish = channel._put  # as the transport does: a property of its own
        channel._put = lambda queue, message, **_: publish(
            queue, {**message, "properties": {**message["properties"], "session": {"n": 1}}}
        )
        work.apply_async(
            ("secret",),
            producer=app.amqp.Producer(channel),
            task_id="t",
            headers={"session_token": "token"},
            argsrepr="(shown)",
        )
        producer = app.amqp.Producer(channel)
        for headers, body in (
            ({"id": "u", "task": "nobody"}, "[[], {}, {}]"),
            ({"id": "i", "task": "work", "eta": "never"}, "[[], {}, {}]"),
            ({"id": "m"}, '"no task"'),
            ({"id": "d"}, "{"),
        ):
            producer.publish(
                body,
                exchange="",
                routing_key="contract",
                headers=headers,
                content_type="application/json",
                content_encoding="utf-8",
            )
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=10):
        wait_until(
            lambda: len(NotingConsumer.seen) == 4,
            10,
            "all messages to be met",
        )
        wait_until(
            lambda: any(e.type == "task-succeeded" for e in NotingRequest.seen), 10, "the end"
        )
    return app


def test_worker_consumer_names_the_class_whose_hooks_get_bad_messages(celery_app: Celery) -> None:
    """``worker.Consumer``"""
    seen = NotingConsumer.seen
    assert set(seen) == {"unknown_task", "unknown_message", "decode_error", "invalid_task"}
    for hook in seen:
        name = f"on_{hook}"
        ours = inspect.signature(getattr(NotingConsumer, name)).parameters
        assert list(inspect.signature(getattr(Consumer, name)).parameters) == list(ours)


def test_a_task_knows_the_headers_and_properties_of_its_message(celery_app: Celery) -> None:
    """``lease.SessionLease.of``"""
    request = SEEN["request"]
    assert request["session_token"] == "token"
    assert request["properties"]["session"] == {"n": 1}
    assert (request["id"], list(request["args"]), request["kwargs"]) == ("t", ["secret"], {})
    assert request["headers"]["session_token"] == "token"


def test_a_retry_carries_id_headers_delay_and_the_queue_as_a_name(celery_app: Celery) -> None:
    """``task.OrderedTask.signature_from_request``"""
    options = SEEN["retry"]
    assert options["task_id"] == "t"
    assert options["headers"]["session_token"] == "token"
    assert options["queue"] == "contract"
    assert options["countdown"] == 3


def test_the_worker_keeps_running_and_reserved_requests_with_their_messages(
    celery_app: Celery,
) -> None:
    """``celery_state``"""
    (tag,) = SEEN["running"]
    assert uuid.UUID(tag)
    assert SEEN["reserved"] >= 1
    state.revoked.add("gone")
    assert "gone" in state.revoked
    state.revoked.discard("gone")


def test_a_tasks_request_class_sends_its_events_and_describes_it_without_arguments(
    celery_app: Celery,
) -> None:
    """``request.BatchRequest``"""
    types = [event.type for event in NotingRequest.seen]
    # What is received is announced before there is a request.
    assert types == ["task-started", "task-succeeded"]
    request = NotingRequest.seen[-1].request
    assert request._request_dict["properties"]["session"] == {"n": 1}
    assert request._eventer is not None
    # The result comes as its repr, in which an id can be found.
    assert repr("t-1") in str(NotingRequest.seen[-1].fields["result"])
    described = request.info(safe=True)
    assert "secret" not in json.dumps(described, default=str)
    assert inspect.signature(request.info).parameters["safe"].default is False


def test_a_dispatcher_is_enabled_or_not_has_groups_and_sends_by_type(celery_app: Celery) -> None:
    """``request.BatchRequest``"""
    with celery_app.connection_for_write() as connection:
        dispatcher = EventDispatcher(connection, enabled=False, app=celery_app, groups=["worker"])
        assert dispatcher.enabled is False
        assert dispatcher.groups == {"worker"}
    assert next(iter(inspect.signature(dispatcher.send).parameters)) == "type"


def test_without_a_result_backend_it_is_the_disabled_one_and_others_mark_by_id(
    celery_app: Celery,
) -> None:
    """``lease._result_recorder``"""
    assert isinstance(celery_app.backend, DisabledBackend)
    for mark, second in ((Backend.mark_as_done, "result"), (Backend.mark_as_failure, "exc")):
        parameters = list(inspect.signature(mark).parameters)
        assert parameters[1:3] == ["task_id", second]
        assert "request" in parameters
    assert Context({"id": "x", "root_id": "y"}).root_id == "y"


def test_an_app_takes_steps_for_its_workers_and_an_amqp_class(celery_app: Celery) -> None:
    """``worker.install``, ``transport.SessionAMQP``"""
    assert isinstance(celery_app.steps["worker"], set)
    assert inspect.isclass(bootsteps.Step)
    assert celery_app.amqp.Connection is kombu.Connection
    assert "consume_from" in dir(celery_app.amqp.queues)
