"""Messages that are made from one of Celery's are what Celery would have made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
from celery.signals import before_task_publish
from cryptography.fernet import Fernet

from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.gateway.link import Link
from hermes_tasks.gateway.outbox import Row
from hermes_tasks.gateway.sender import Sender, Unsendable
from hermes_tasks.sealing import keyring_of
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.transport import Push, wire
from hermes_tasks.turns import Conclusion, Memory, Turn

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

SAID = [{"peer": "u", "content": 'so "wörd"\n'}, {"peer": "a", "content": "\n"}]


@pytest.fixture
def new_sender() -> Iterator[Callable[..., Sender]]:
    links = []

    def new(settings: Settings, backend: str = "disabled") -> Sender:
        app = make_app(settings, set_as_current=False, backend=backend)
        links.append(Link(app, ""))
        return Sender(app, links[-1])

    yield new
    for link in links:
        link.close()


def row_of(turn: Memory, data: Any = None, *, attempted: bool = False) -> Row:
    body = json.dumps(turn.to_json() if data is None else data, separators=(",", ":"))
    return Row(7, turn.session_key, turn.turn_id, 5, body, attempted)


def said(push: Push | None) -> Any:
    """All that a message says, but for the app that made it."""
    assert push is not None
    message = wire.unpack(push.message)
    message["properties"].pop("reply_to", None)
    return {**asdict(push), "message": {**message, "body": json.loads(message["body"])}}


def test_a_message_is_what_celery_makes_of_it(
    settings: Settings, new_sender: Callable[..., Sender]
) -> None:
    turn = Turn.create("w", "telegram:42", SAID, peers={"u": {"observe_me": True}})
    conclusion = Conclusion.create("w", "s", "hermes", "igor", "Igor likes tea")
    sealing = Settings.load(
        **settings.model_dump(exclude={"encryption_keys"}),
        encryption_keys=Fernet.generate_key().decode(),
    )
    sealed = keyring_of(sealing).seal(turn).to_json()
    plain = [row_of(turn), row_of(turn, attempted=True), row_of(conclusion)]
    for its, backend, rows in (
        (settings, "disabled", plain),
        (settings, "cache+memory://", plain),  # somebody may wait for a result
        (sealing, "disabled", [row_of(turn, sealed), row_of(turn, sealed, attempted=True)]),
    ):
        # Given a gateway that has sent a turn of some other session
        quick = new_sender(its, backend)
        quick.pack(row_of(Turn.create("w", "first", SAID)), "i", None)
        assert quick._stencil is not None
        for row in rows:
            # If it packs another, I expect what one makes of it that asks Celery
            made = quick.pack(row, "i", 6).push
            assert made is not None
            assert ("reply_to" in made.message) is (backend != "disabled")
            assert "timelimit" not in made.message  # workers have those of the task
            assert said(made) == said(new_sender(its, backend).pack(row, "i", 6).push)


def test_who_wants_to_know_of_messages_is_told_of_each(
    settings: Settings, new_sender: Callable[..., Sender]
) -> None:
    told: list[str] = []

    def note(headers: dict[str, Any], **_: Any) -> None:
        told.append(headers["id"])

    sender = new_sender(settings)
    turns = [Turn.create("w", "s", SAID) for _ in range(3)]
    sender.pack(row_of(turns[0]), "i", None)
    before_task_publish.connect(note)
    try:
        for turn in turns[1:]:
            sender.pack(row_of(turn), "i", None)
    finally:
        before_task_publish.disconnect(note)
    assert told == [turn.turn_id for turn in turns[1:]]


def test_what_is_no_turn_is_refused_as_before(
    settings: Settings, new_sender: Callable[..., Sender]
) -> None:
    sender = new_sender(settings)
    turn = Turn.create("w", "s", SAID)
    sender.pack(row_of(turn), "i", None)
    with pytest.raises(Unsendable, match="has no format version"):
        sender.pack(row_of(turn, {"turn_id": turn.turn_id}), "i", None)
