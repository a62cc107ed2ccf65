"""Messages that no worker can run: each is given up alone, and its neighbours keep their order."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any, cast

from celery import Celery

from hermes_tasks.transport import SessionStore, session_queue
from tests.integration.order.fleet import SLOTS, Fleet
from tests.integration.order.load import Load

#: Stands for the conversation in every message of these tests.
MARKER = "the-words-nobody-may-log"
#: The place of the bad message among good ones: in the middle of what is a batch otherwise.
BAD = 3
TURNS = 7


def message(app: Celery, session: str, **changes: Any) -> dict[str, Any]:
    """A good turn's message as Celery hands it to the transport, but for the changes."""
    id = f"bad:{session}"
    queue = session_queue(session, app.conf.broker_transport_options["session_prefix"]).name
    body: Any = changes.get("body", json.dumps([[session, BAD], {"text": MARKER}, {}]))
    headers = {
        "task": "order.write",
        "id": id,
        "root_id": id,
        "retries": 0,
        "eta": None,
        "expires": None,
        "session_settle": "commit",
    }
    return {
        "body": changes.get("raw_body", base64.b64encode(body.encode()).decode()),
        "content-encoding": changes.get("content_encoding", "utf-8"),
        "content-type": changes.get("content_type", "application/json"),
        "headers": {
            name: value
            for name, value in (headers | changes.get("headers", {})).items()
            if name not in changes.get("without", ())
        },
        "properties": {
            "correlation_id": id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


#: What is wrong with each, and the reason with which it is given up.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown task": ({"headers": {"task": "order.nobody"}}, "attempts"),
    "an unknown task that does not commit": (
        {"headers": {"task": "order.nobody"}, "without": ["session_settle"]},
        "attempts",
    ),
    "no task at all": ({"without": ["task"]}, "malformed"),
    "no task at all, and a body that names one": (
        {"without": ["task"], "body": json.dumps({"task": MARKER})},
        "malformed",
    ),
    "a body that is not JSON": ({"body": f"{{{MARKER}"}, "attempts"),
    "a body that is not a call": ({"body": json.dumps(MARKER)}, "attempts"),
    "a call without its arguments": ({"body": json.dumps([[], {}, {}])}, "attempts"),
    "a content type nobody knows": ({"content_type": "application/x-nothing"}, "attempts"),
    "a content type that is not accepted": (
        {"content_type": "application/x-python-serialize", "content_encoding": "binary"},
        "attempts",
    ),
    "a type and an encoding that are none": (
        {"content_type": None, "content_encoding": 5},
        "malformed",
    ),
    "a task whose name is none": ({"headers": {"task": {"a": MARKER}}}, "malformed"),
    "time limits that are none": ({"headers": {"timelimit": 5, "session_alone": 1}}, "attempts"),
    "a time limit that is none": (
        {"headers": {"timelimit": [None, MARKER], "session_alone": 1}},
        "attempts",
    ),
    "corrupt base64": ({"raw_body": "abcde"}, "malformed"),
    "a task that is acknowledged early": (
        {"headers": {"task": "order.early"}, "without": ["session_settle"]},
        "attempts",
    ),
}


def test_bad_messages_are_given_up_alone_and_none_is_quoted_in_a_log(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore, app: Celery
) -> None:
    turns = load(sessions=len(CASES), turns=TURNS)
    expected = {}
    with app.connection_for_write() as connection:
        channel = connection.channel()
        for session, (changes, reason) in zip(turns.sessions, CASES.values(), strict=True):
            expected[session] = (f"bad:{session}", reason)
            for number in range(TURNS):
                if number == BAD:
                    bad = message(app, session, **changes)
                    channel._put(bad["properties"]["delivery_info"]["routing_key"], bad)
                else:
                    # The first waits until all are there.
                    gate = turns.sessions[0] if number == 0 else None
                    turns.send(session, number, gate=gate, text=MARKER)
    turns.journal.open(turns.sessions[0])
    turns.check(missing=[(session, BAD) for session in turns.sessions])
    given_up = {
        letter["session"]: (letter["id"], letter["reason"])
        for letter in store.dead_letters()
        if letter["session"] in expected
    }
    assert given_up == expected
    log = fleet.log()
    assert "order.early was sent to a session queue without acks_late" in log
    assert MARKER not in log


def test_any_number_of_bad_messages_one_after_another_stop_no_worker(
    fleet: Fleet, load: Callable[..., Load], app: Celery
) -> None:
    """A worker learns of the next with the acknowledgement of the last."""
    good, bad = load(sessions=2 * SLOTS, turns=2), load(sessions=400, turns=1)
    gate = good.sessions[0]
    good.publish(gate=gate)
    good.journal.wait_for_arrivals(gate, 2 * SLOTS)
    with app.connection_for_write() as connection:
        for session in bad.sessions:
            changed = message(app, session, **CASES["a body that is not JSON"][0])
            connection.default_channel._put(
                changed["properties"]["delivery_info"]["routing_key"], changed
            )
    good.journal.open(gate)
    bad.check(missing=[(session, 0) for session in bad.sessions])
    good.check()
    assert all(worker.is_running for worker in fleet.members)


def test_what_is_not_even_a_message_is_given_up_alone(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    shapes = [
        *(f"{{{MARKER}", f'"{MARKER}"', "[]", "{}", "null", '{"headers": {}, "properties": {}}'),
        # Too deep for the parser; what Kombu's decoder of decimals cannot take; no text.
        *("[" * 100_000, json.dumps({"__type__": "decimal", "__value__": MARKER})),
        b'"\xff"',
    ]
    turns = load(sessions=len(shapes), turns=TURNS)
    for session, shape in zip(turns.sessions, shapes, strict=True):
        for number in range(TURNS):
            if number == BAD:
                pushed = store.push(session, cast(str, shape), id=f"bad:{session}")
                assert pushed.status == "accepted"
            else:
                turns.send(session, number, "order.note", text=MARKER)
    turns.check(missing=[(session, BAD) for session in turns.sessions])
    reasons = [d["reason"] for d in store.dead_letters() if d["session"] in turns.sessions]
    assert reasons == ["malformed"] * len(shapes)
    assert MARKER not in fleet.log()


def test_a_message_that_is_too_long_is_given_up_unread(
    fleet: Fleet, load: Callable[..., Load], store: SessionStore
) -> None:
    turns = load(sessions=1, turns=TURNS)
    (session,) = turns.sessions
    for number in range(TURNS):
        text = MARKER * 100_000 if number == BAD else MARKER
        turns.send(session, number, text=text)
    turns.check(missing=[(session, BAD)])
    (letter,) = (d for d in store.dead_letters() if d["session"] == session)
    assert letter["reason"] == "oversized"
    assert MARKER not in fleet.log()
