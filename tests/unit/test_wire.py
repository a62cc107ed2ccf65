"""A message as it lies in a session queue, and as Celery gets it back."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import kombu.utils.json
import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from kombu.exceptions import ContentDisallowed
from kombu.serialization import register, register_json

from hermes_tasks.transport import wire
from hermes_tasks.transport.wire import decode_body

QUEUE = "hermes.session.default:w:s"
JSON = {"application/json"}


def sent(args: Any, **options: Any) -> dict[str, Any]:
    """The message that Celery and Kombu make of a call, as a channel's ``_put`` gets it."""
    app = Celery("wire", broker="memory://", set_as_current=False)
    body, properties = options.pop("body", None), None
    task = app.amqp.as_task_v2(
        options.pop("task_id", "turn-1"), "hermes_tasks.sync_turn", args, **options
    )
    with Connection("memory://") as connection:
        channel = connection.channel()
        text = json.dumps(task.body) if body is None else body
        message: dict[str, Any] = channel.prepare_message(
            text, 0, "application/json", "utf-8", task.headers, dict(task.properties)
        )
        properties = message["properties"]
        properties["delivery_info"] = {"exchange": "", "routing_key": QUEUE}
        body, properties["body_encoding"] = channel.encode_body(text, "base64")
        properties["delivery_tag"] = str(uuid.uuid4())
        # A producer adds these.
        properties["delivery_mode"] = 2
        properties |= {name: task.headers[name] for name in ("argsrepr", "kwargsrepr")}
        return {**message, "body": body}


def of_batch(args: Any) -> dict[str, Any]:
    """The message of a batch task that nobody waits for."""
    message = sent(args, argsrepr="(…)")
    message["headers"][wire.SETTLE_HEADER] = "commit"
    del message["properties"]["reply_to"]
    return message


def plain(message: dict[str, Any]) -> dict[str, Any]:
    """What a message says, however its body is put."""
    properties = dict(message["properties"])
    properties.pop("delivery_tag", None)
    properties.pop("body_encoding", None)
    return {
        **message,
        "body": decode_body(message, JSON),
        "properties": {name: value for name, value in properties.items() if value is not None},
    }


@given(st.text(max_size=200), st.sampled_from([{}, {"retries": 3}, {"argsrepr": "(…)"}]))
def test_what_is_packed_comes_back(text: str, options: dict[str, Any]) -> None:
    message = sent(({"content": text},), **options)
    back = wire.unpack(wire.pack(message, QUEUE), QUEUE)
    assert plain(back) == plain(message)


def test_arguments_are_decoded_as_kombu_does() -> None:
    args = [
        uuid.UUID(int=7),
        datetime(2026, 1, 31, tzinfo=UTC),
        Decimal("1.5"),
        b"\xff",
        {"a": [None]},
    ]
    message = sent(args, body=kombu.utils.json.dumps([args, {}, {}]))
    message = wire.unpack(wire.pack(message, QUEUE), QUEUE)
    assert decode_body(message, JSON) == (args, {})


def test_what_may_not_be_decoded_is_not() -> None:
    with pytest.raises(ContentDisallowed):
        decode_body(sent(()), {"application/x-yaml"})


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        '[[{"__type__": "uuid", "__value__": 5}], {}, {}]',
        '[[{"__type__": "?", "__value__": 5}], {}, {}]',
    ],
)
def test_a_broken_body_is_said_to_be_one(body: str) -> None:
    message = wire.unpack(wire.pack(sent((), body=body), QUEUE), QUEUE)
    with pytest.raises(ValueError, match="no JSON"):
        decode_body(message, JSON)


@pytest.mark.parametrize(
    "wrong",
    [
        {"content-encoding": 5},
        {"content-type": ["application/json"]},
        {"headers": {"task": 5}},
        {"body": [1]},
        {"properties": {}},
    ],
)
def test_what_is_wrong_with_a_message_is_found_before_its_body_is(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no message"):
        wire.unpack(json.dumps({**sent(()), **wrong}))


def test_a_decoder_of_the_application_is_used() -> None:
    message = wire.unpack(wire.pack(sent(({"a": 1},)), QUEUE), QUEUE)
    dumps = kombu.utils.json.dumps
    register("json", dumps, lambda _: [["theirs"], {}, {}], "application/json", "utf-8")
    try:
        assert decode_body(message, JSON) == (["theirs"], {})
    finally:
        register_json()
    assert decode_body(message, JSON) == ([{"a": 1}], {})


def test_a_turn_of_one_kilobyte_takes_less_than_a_third_more() -> None:
    message = sent(({"messages": [{"peer": "user", "content": "x" * 1_000}]},))
    assert len(wire.pack(message, QUEUE)) < 1_300 < len(json.dumps(message))


def test_a_turn_of_one_kilobyte_in_a_batch_takes_less_than_an_eighth_more() -> None:
    message = of_batch(({"messages": [{"peer": "user", "content": "x" * 1_000}]},))
    packed = wire.pack(message, QUEUE)
    assert len(packed) < 1_120
    assert plain(wire.unpack(packed, QUEUE)) == plain(message)


@pytest.mark.parametrize(
    "change",
    [
        {"headers": {wire.SETTLE_HEADER: "other"}},
        {"headers": {"timelimit": [5, None]}},
        {"headers": {"traceparent": "00-1"}},
        {"properties": {"reply_to": "me"}},
        {"content-encoding": "us-ascii"},
    ],
)
def test_what_a_batch_message_has_of_its_own_it_keeps(change: dict[str, Any]) -> None:
    message = of_batch(({"content": "x"},))
    for name, value in change.items():
        message[name] = {**message[name], **value} if isinstance(value, dict) else value
    assert plain(wire.unpack(wire.pack(message, QUEUE), QUEUE)) == plain(message)


def test_a_batch_message_with_the_envelope_of_an_older_gateway_is_read() -> None:
    message = of_batch(({"content": "x"},))
    headers = {name: message["headers"][name] for name in ("task", "id", "argsrepr", "origin")}
    headers[wire.SETTLE_HEADER] = "commit"
    envelope = {"headers": headers, "args": True, "properties": {}}
    older = f'{json.dumps(envelope)}\n[{{"content": "x"}}]'
    assert wire.unpack(older, QUEUE) == wire.unpack(wire.pack(message, QUEUE), QUEUE)
    assert plain(wire.unpack(older, QUEUE)) == plain(message)


def test_its_body_is_not_looked_at_for_the_envelope() -> None:
    message = sent((), body="]no call, and no JSON\nof two lines")
    packed = wire.pack(message, QUEUE)
    assert wire.unpack(packed, QUEUE)["body"] == "]no call, and no JSON\nof two lines"
    assert "no call" not in packed.partition("\n")[0]


def test_a_message_with_options_of_its_own_keeps_them() -> None:
    message = sent(
        ({},),
        kwargs={"a": 1},
        expires=60,
        time_limit=5,
        parent_id="parent",
        root_id="root",
        reply_to="me",
        callbacks=None,
    )
    message["properties"]["priority"] = 3
    back = wire.unpack(wire.pack(message, QUEUE), QUEUE)
    assert plain(back) == plain(message)


def test_a_body_that_is_not_text_stays_base64() -> None:
    message = sent((), body="x")
    message |= {"body": "/wD/", "content-encoding": "binary", "content-type": "application/x-y"}
    back = wire.unpack(wire.pack(message, QUEUE), QUEUE)
    assert back["properties"]["body_encoding"] == "base64"
    assert (back["body"], back["content-type"]) == ("/wD/", "application/x-y")


def test_a_message_that_is_no_task_is_kept_as_it_is() -> None:
    message = sent((), body="x")
    message["headers"] = {"mine": None}
    assert wire.unpack(wire.pack(message, QUEUE), QUEUE)["headers"] == {"mine": None}


def test_a_message_of_an_older_gateway_is_read() -> None:
    message = sent(({"content": "before"},))
    assert wire.unpack(json.dumps(message), QUEUE) == message


def test_two_messages_share_nothing_that_may_be_changed() -> None:
    packed = wire.pack(sent(({},)), QUEUE)
    one, other = wire.unpack(packed, QUEUE), wire.unpack(packed, QUEUE)
    one["headers"]["stamps"]["a"] = one["headers"]["timelimit"][0] = 1
    one["properties"]["delivery_info"]["redelivered"] = True
    assert (other["headers"]["stamps"], other["headers"]["timelimit"]) == ({}, [None, None])
    assert other["properties"]["delivery_info"] == {"exchange": "", "routing_key": QUEUE}


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "null\nx", "[]\n", '{"headers": 1}\nx', "{}", "1"),
        '{"headers": "task", "properties": {}}\nx',
        '{"headers": {"task": {}, "id": "1"}, "properties": {}}\nx',
        '["task", "1"]\nx',
        '["task", 1, "()", "me"]\nx',
        '["task", "1", "()", "me", {}, {}]\nx',
        '["task", "1", "()", "me", "others"]\nx',
        '{"headers": {"task": 1}, "properties": {"delivery_info": {}}, "body": ""}',
        '{"headers": {"__type__": "decimal", "__value__": "none"}}\nx',
    ],
)
def test_what_is_no_message_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.unpack(text, QUEUE)
