"""What was said is in Honcho, in the queues and in dead letters, and nowhere else.

Turns of every kind say a word that nobody else says: those that are written, refused with an answer
that echoes them, given up, unreadable, too long. Then the word is looked for in all that gateway,
worker and commands wrote, sent and keep, at their most talkative.
"""

from __future__ import annotations

import json
import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from click.testing import CliRunner

from hermes_tasks import HermesTasksError, TurnSync
from hermes_tasks.app import make_app
from hermes_tasks.cli import main
from hermes_tasks.config import Settings
from hermes_tasks.gate import Policy
from hermes_tasks.ops.exporter import families
from hermes_tasks.ops.overview import read_overview
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.keys import Names
from tests.conftest import StartWorker
from tests.integration.flower.server import Flower
from tests.marker import Marker

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

#: Parts of a session, and the stream, that hold messages; everything else must not.
QUEUES = (":inflight", ":waiting", ":backlog", ":dead")

COMMANDS = (
    *(("status",), ("status", "--json"), ("check",), ("config",), ("config", "--json")),
    *(("health",), ("gate", "show"), ("gate", "show", "--json")),
    *(("sessions", "list"), ("sessions", "list", "--json")),
    *(("dead", "list"), ("dead", "list", "--json")),
)
PAGES = (
    *("/", "/tasks", "/api/tasks", "/broker", "/api/workers?refresh=1", "/metrics"),
    *("/sessions", "/sessions/data", "/api/sessions?state=sleeping"),
)

#: What becomes of those that are not written.
GIVEN_UP = {
    "attempts": 6,
    "malformed": 4,
    "overflow": 4,
    "oversized": 1,
    "poison": 2,
}

SOON = {"session_retry_first": 0.05, "session_retry_longest": 0.1}

#: How much a turn may have here, in bytes.
TURN_BYTES = 20_000


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as honcho:
        yield honcho


class Conversation:
    """Says the word in turns of every kind, and knows what must become of them."""

    def __init__(self, settings: Settings, store: SessionStore, word: str) -> None:
        self._store = store
        self._word = word
        self.sync = TurnSync(settings=settings, workspace="w")
        self.errors: list[str] = []
        self.ids: list[str] = []

    def say(self, session: str, **changes: Any) -> None:
        """A turn whose text and metadata have the word."""
        message = {"peer": "igor", "content": self._word, "metadata": {"mood": self._word}}
        receipt = self.sync.sync_turn(session=session, messages=[message | changes])
        self.ids.append(receipt.turn_id)

    def conclude(self, session: str) -> None:
        receipt = self.sync.conclude(
            session=session,
            observer="hermes",
            observed="igor",
            content=f"{self._word} of {session}",
        )
        self.ids.append(receipt.turn_id)

    def fail_to_say(self) -> None:
        """What the gateway refuses: the caller's fault, told to the caller."""
        deep: Any = self._word
        for _ in range(30):
            deep = [deep]
        for changes in (
            {"content": [self._word]},
            {"created_at": self._word},
            {"metadata": {"deep": deep}},
            {"metadata": {self._word: float("nan")}},
            {"content": self._word * TURN_BYTES},
        ):
            with pytest.raises(HermesTasksError) as caught:
                self.say("refused", **changes)
            self.errors.append("".join(traceback.format_exception(caught.value)))

    def push(self, session: str, text: str | bytes) -> None:
        """What no gateway sends."""
        self._store.push(f"default:w:{session}", text, id=f"bad-{session}")  # type: ignore[arg-type]

    def message(self, **changes: Any) -> str:
        """A Celery message with the word, but for the changes."""
        body = changes.pop("body", json.dumps([[{"v": 1, "text": self._word}], {}, {}]))
        content_type = changes.pop("content_type", "application/json")
        headers = {
            "task": "hermes_tasks.sync_turn",
            "id": "bad",
            "retries": 0,
            "session_settle": "commit",
            "argsrepr": "()",
            "kwargsrepr": "{}",
        }
        return json.dumps(
            {
                "body": body,
                "content-encoding": "utf-8",
                "content-type": content_type,
                "headers": headers | changes,
                "properties": {"delivery_info": {}, "delivery_tag": "t", "priority": 0},
            }
        )


@contextmanager
def events(app: Any) -> Iterator[list[str]]:
    """Everything that workers tell of tasks, as it was sent."""
    heard: list[str] = []
    stop = threading.Event()

    def listen() -> None:
        with app.connection_for_write() as connection:
            receiver = app.events.Receiver(
                connection, handlers={"*": lambda event: heard.append(repr(event))}
            )
            ready.set()
            while not stop.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.2, wakeup=False)
                except TimeoutError:
                    continue

    ready = threading.Event()
    thread = threading.Thread(target=listen)
    thread.start()
    ready.wait(10)
    try:
        yield heard
    finally:
        stop.set()
        thread.join()


def test_what_was_said_is_nowhere_but_in_queues_and_in_honcho(
    worker: StartWorker,
    honcho: HonchoServer,
    settings: Settings,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    marker = Marker()
    word = marker.text
    env = {
        "HERMES_TASKS_BROKER_URL": settings.broker_url,
        "HERMES_TASKS_PREFIX": settings.prefix,
        "HERMES_TASKS_TURN_BYTES": str(TURN_BYTES),
        "HERMES_TASKS_BACKLOG_LIMIT": "2",
        "HERMES_TASKS_QUEUE_LIMIT": "2",
        # What fails is given up soon.
        "HERMES_TASKS_BROKER_OPTIONS": json.dumps(SOON),
        "HONCHO_URL": honcho.url,
        "HONCHO_WORKSPACE_ID": "w",
    }
    store = SessionStore(redis_client, Names(settings.prefix))
    outbox = tmp_path / "outbox"
    talk = Conversation(
        Settings.load(
            broker_url=settings.broker_url,
            prefix=settings.prefix,
            turn_bytes=TURN_BYTES,
            queue_limit=2,
            backlog_limit=2,
            outbox_dir=outbox,
        ),
        store,
        word,
    )
    # Two are refused with an answer that echoes them; one fails, and is written at the second try.
    honcho.control(fail=422, times=1, route="messages")
    honcho.control(fail=422, times=1, route="conclusions")
    honcho.control(fail=404, times=1, route="messages", skip=1)
    honcho.control(fail=503, times=1, route="messages", skip=2)

    talk.fail_to_say()
    for session in ("a", "b", "c"):
        talk.say(session)
        talk.conclude(session)
    for _ in range(8):
        talk.say("full")
    talk.push("text", word)
    talk.push("deep", "[" * 100_000 + word)
    talk.push("typed", json.dumps({"__type__": "decimal", "__value__": word}))
    talk.push("bytes", b'"\xff' + word.encode() + b'"')
    talk.push("long", talk.message(body=json.dumps([[word * TURN_BYTES], {}, {}])))
    talk.push("other-task", talk.message(task="nobody"))
    talk.push("no-turn", talk.message())
    talk.push("no-json", talk.message(body="{" + word))
    talk.push("deep-body", talk.message(body="[" * 100_000 + word))
    talk.push("no-arguments", talk.message(body=json.dumps([[], {"turn": word}, {}])))
    talk.push("pickle", talk.message(content_type="application/x-python-serialize"))
    wait_until(lambda: talk.sync.pending == 0, 10, "all turns to be sent")

    in_queues = marker.keys_with_it(redis_client)
    assert in_queues
    assert {key for key in in_queues if not key.endswith(QUEUES)} == set()

    app = make_app(settings, set_as_current=False)
    with events(app) as heard:
        process = worker("-c", "2", "-E", "-l", "DEBUG", env=env, wait=False)
        flower = Flower(env, tmp_path / "flower.log")
        try:
            wait_until(lambda: flower.get("/broker"), 20, "Flower to be there")
            wait_until(lambda: settled(store) == accepted(store), 60, "everything to be settled")
            talk.sync.close()
            shown = [run(env, *command) for command in COMMANDS]
            for letter in store.dead_letters():
                shown.append(run(env, "dead", "show", letter["entry"]))
                shown.append(run(env, "sessions", "show", letter["session"]))
            metrics = [str(list(families(read_overview(store, Policy()))))]
            asked = [str(app.control.inspect(timeout=1.0).report())]
            pages = [flower.get(page) or "" for page in PAGES]
            pages += [flower.get(f"/task/{id}") or "" for id in talk.ids]
            for letter in store.dead_letters():
                pages.append(flower.get(f"/session/data?id={quote(letter['session'])}") or "")
        finally:
            flower.kill()

    assert word in json.dumps(honcho.log())
    assert word in json.dumps(honcho.conclusions())
    reasons = given_up(store)
    # All that its session had for Honcho at that moment.
    assert reasons.pop("session_deleted") >= 1
    assert reasons == GIVEN_UP
    outputs = {
        "the worker's log": [process.log],
        "Flower's log": [flower.log.read_text()],
        "the gateway's log": [caplog.text],
        "errors": talk.errors,
        "events": heard,
        "commands": shown,
        "metrics": metrics,
        "celery inspect": asked,
        "Flower's pages": pages,
    }
    assert all(outputs.values())
    assert all(pages[: len(PAGES)])
    assert {name for name, texts in outputs.items() if any(map(marker.is_in, texts))} == set()
    leaks = {key for key in marker.keys_with_it(redis_client) if not key.endswith(QUEUES)}
    assert leaks == set()


def run(env: dict[str, str], *command: str) -> str:
    result = CliRunner(env=env | {"COLUMNS": "500"}).invoke(main, command)
    assert result.exit_code in (0, 1), (command, result.output)
    return result.output


def accepted(store: SessionStore) -> int:
    return store.counters().get("accepted", 0)


def settled(store: SessionStore) -> int:
    return store.counters().get("written", 0) + sum(given_up(store).values())


def given_up(store: SessionStore) -> dict[str, int]:
    counters = store.counters()
    return {n.removeprefix("dead:"): count for n, count in counters.items() if "dead:" in n}
