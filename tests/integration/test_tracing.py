"""One trace from ``sync_turn`` to the write, whatever happens to the turn on its way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hermes_tasks import TurnSync
from hermes_tasks.config import Settings
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from tests.conftest import StartWorker

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

SECRET = "what nobody but Honcho may read"

Span = dict[str, Any]


class Spans:
    """The spans of this process, a gateway, and of a worker, in one form."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._memory = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._memory))

    def all(self) -> list[Span]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        here = [span.to_json() for span in self._memory.get_finished_spans()]
        return [json.loads(text) for text in (*here, *lines)]

    def of(self, name: str, parent: Span | None = None) -> list[Span]:
        """The spans of a name that have ended, oldest first, perhaps below one."""
        return sorted(
            (
                span
                for span in self.all()
                if span["name"] == name and (parent is None or is_child(span, parent))
            ),
            key=lambda span: str(span["start_time"]),
        )


def is_child(span: Span, parent: Span) -> bool:
    above: Span = parent["context"]
    return (span["context"]["trace_id"], span["parent_id"]) == (above["trace_id"], above["span_id"])


def say(sync: TurnSync, number: int) -> str:
    messages = [{"peer": "igor", "content": f"{SECRET} {number}"}]
    return sync.sync_turn(session="s", workspace="w", messages=messages).turn_id


@pytest.fixture
def spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """This process is traced. A provider can be set only once in a process: so it is put there."""
    spans = Spans(tmp_path / "spans.jsonl")
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    yield spans
    spans.provider.shutdown()


@pytest.fixture
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as honcho:
        yield honcho


def test_a_trace_goes_from_sync_turn_to_every_attempt_to_write(
    server: Server, settings: Settings, worker: StartWorker, honcho: HonchoServer, spans: Spans
) -> None:
    # Given a gateway whose caller is traced, and a Honcho that fails once
    honcho.control(fail=503)
    env = {"HONCHO_URL": honcho.url, "TRACED_SPANS": str(spans.path)}
    worker("-c", "1", app="tests.integration.traced_worker", env=env)
    with TurnSync(settings=settings) as sync:
        # If a turn is written, and three behind it while it waits for its second attempt
        with spans.provider.get_tracer("host").start_as_current_span("conversation"):
            first = say(sync, 0)
        wait_until(lambda: spans.of("write turns"), 20, "the first attempt")
        later = [say(sync, number) for number in range(1, 4)]
        sync.flush(session="s", workspace="w", timeout=20)
    wait_until(lambda: len(spans.of("write turns")) >= 3, 10, "the spans of all writes")

    # I expect the whole way below the caller's span
    (conversation,) = spans.of("conversation")
    (accepted,) = spans.of("sync_turn", conversation)
    assert accepted["attributes"]["messaging.message.id"] == first
    (published,) = spans.of("publish turn", accepted)
    assert published["attributes"]["hermes_tasks.answer"] == "accepted"
    assert published["attributes"]["messaging.message.conversation_id"] == "default:w:s"
    failed, written = spans.of("write turns", published)
    assert failed["status"] == {"status_code": "ERROR", "description": "Overloaded"}
    assert failed["attributes"]["error.type"] == "Overloaded"
    assert written["status"] == {"status_code": "UNSET"}
    assert written["attributes"]["hermes_tasks.again"] is True
    assert written["attributes"]["hermes_tasks.written"] == 1
    question, call = spans.of("call Honcho", written)[0], spans.of("call Honcho", written)[-1]
    assert question["attributes"]["hermes_tasks.messages"] == 0
    assert call["attributes"]["hermes_tasks.messages"] == 1

    # and the three in one span of the first of them, linked to the other two
    traces = {one["attributes"]["messaging.message.id"]: one for one in spans.of("publish turn")}
    (batch,) = [one for one in spans.of("write turns") if one not in (failed, written)]
    assert is_child(batch, traces[later[0]])
    linked = [link["context"]["span_id"] for link in batch["links"]]
    assert linked == [traces[id]["context"]["span_id"] for id in later[1:]]
    assert batch["attributes"]["messaging.batch.message_count"] == 3
    # and nothing of what was said.
    assert SECRET not in json.dumps(spans.all())


def test_the_context_outlives_its_gateway_and_one_that_is_not_traced(
    make_server: Callable[..., Server],
    prefix: str,
    tmp_path: Path,
    worker: StartWorker,
    honcho: HonchoServer,
    spans: Spans,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a turn that is left in an outbox
    server = make_server()
    server.stop()
    settings = Settings(broker_url=server.url, prefix=prefix, outbox_dir=tmp_path / "outbox")
    with TurnSync(settings=settings) as sync:
        say(sync, 0)
    (accepted,) = spans.of("sync_turn")
    assert not spans.of("publish turn", accepted)
    # If a gateway without tracing sends it
    server.start()
    env = {
        "HERMES_TASKS_BROKER_URL": server.url,
        "HERMES_TASKS_PREFIX": prefix,
        "HONCHO_URL": honcho.url,
        "TRACED_SPANS": str(spans.path),
    }
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    with TurnSync(settings=settings) as sync:
        sync.warm_up()
        worker("-P", "threads", "-c", "2", app="tests.integration.traced_worker", env=env)
        # I expect the write in the trace of who gave it.
        wait_until(lambda: spans.of("write turns", accepted), 20, "the write")


def test_a_turn_that_is_sent_again_is_published_twice_in_one_trace(
    make_server: Callable[..., Server], prefix: str, tmp_path: Path, spans: Spans
) -> None:
    server = make_server(config={"appendonly": "no"})
    settings = Settings(broker_url=server.url, prefix=prefix, outbox_dir=tmp_path / "outbox")
    with TurnSync(settings=settings) as sync:
        say(sync, 0)
        (accepted,) = spans.of("sync_turn")
        wait_until(lambda: spans.of("publish turn", accepted), 10, "the turn to be published")
        server.kill()
        server.start()
        wait_until(lambda: len(spans.of("publish turn", accepted)) > 1, 20, "it to be sent again")
    published = spans.of("publish turn", accepted)
    assert [one["attributes"]["hermes_tasks.resent"] for one in published[:2]] == [False, True]
