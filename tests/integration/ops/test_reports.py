"""What workers and gateways say of themselves, and the history that workers record."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes_tasks import TurnSync
from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.gate import Policy
from hermes_tasks.gateway import report as gateway_report
from hermes_tasks.ops import Overview, read_history, read_overview
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import Names, SessionStore
from tests.conftest import StartWorker

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


@pytest.fixture
def store(server: Server, prefix: str) -> SessionStore:
    return SessionStore(server.client(), Names(prefix))


@pytest.fixture
def overview(store: SessionStore) -> Callable[[], Overview]:
    return lambda: read_overview(store, Policy())


def test_a_worker_says_whether_it_takes_turns_until_it_ends(
    worker: StartWorker,
    settings: Settings,
    store: SessionStore,
    overview: Callable[[], Overview],
) -> None:
    process = worker("-P", "solo", "-n", "w@here", env={"HONCHO_URL": "http://127.0.0.1:1"})

    def reports(consuming: bool) -> bool:
        return any(one.consuming is consuming and one.seen < 3 for one in overview().workers)

    wait_until(lambda: reports(True), 10, "a report of the worker")
    assert [one.name for one in overview().workers] == ["w@here"]
    assert (
        wait_until(lambda: read_history(store), 10, "a sample of the deployment")[0].unsettled == 0
    )

    app = make_app(settings, set_as_current=False)
    app.control.cancel_consumer(store.names.run_queue, destination=["w@here"])
    wait_until(lambda: reports(False), 15, "the worker to say that it was cancelled")
    app.control.add_consumer(store.names.run_queue, destination=["w@here"])
    wait_until(lambda: reports(True), 15, "the worker to say that it takes turns again")

    process.send(signal.SIGTERM)
    process.wait()
    assert overview().workers == (), "who ends says so"


def test_a_worker_whose_consumer_stands_still_says_so(
    worker: StartWorker, settings: Settings, overview: Callable[[], Overview], tmp_path: Path
) -> None:
    # The event loop sleeps in a signal handler, as it may in anybody's code; threads go on.
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGUSR2, lambda *_: time.sleep(60))\n"
    )
    process = worker(
        *("-P", "threads", "-c", "2"),
        env={"HONCHO_URL": "http://127.0.0.1:1", "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"},
    )
    wait_until(lambda: any(one.consuming for one in overview().workers), 10, "a first report")
    process.send(signal.SIGUSR2)
    wait_until(lambda: not overview().workers[0].consuming, 20, "the report of a standstill")
    assert overview().workers[0].seen < 3
    process.kill()


def test_a_gateway_tells_how_full_its_outbox_is_and_what_it_dropped(
    make_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_report, "EVERY", 0.2)
    server = make_server()
    settings = Settings(broker_url=server.url, outbox_dir=tmp_path, outbox_rows=100)
    store = SessionStore(server.client())

    def overview() -> Overview:
        return read_overview(store, Policy())

    message = {"peer": "igor", "content": "what nobody may read"}

    def say(sync: TurnSync, count: int) -> None:
        for _ in range(count):
            sync.sync_turn(workspace="w", session="s", messages=[message])

    with TurnSync(settings=settings) as sync:
        assert overview().gateways.count == 0, "a gateway without turns tells nothing"
        server.stop()
        say(sync, 103)
        server.start()
        wait_until(lambda: overview().accepted == 100, 20, "the turns to be sent")
        wait_until(lambda: overview().gateways.dropped == 3, 5, "what was dropped to be told")
        assert (overview().gateways.count, overview().gateways.rows) == (1, 0)

        # Redis has no memory for turns, but for this.
        server.client().config_set("maxmemory", "1mb")
        say(sync, 2)
        wait_until(lambda: overview().gateways.rows == 2, 20, "that rows wait to be told")
        left = sync.close(0.1).left
    assert left == 2
    server.client().config_set("maxmemory", "0")
    with TurnSync(settings=settings):
        wait_until(lambda: overview().accepted == 102, 20, "the turns left behind to be sent")
        wait_until(lambda: overview().gateways.rows == 0, 10, "nobody to have rows")
    assert overview().gateways.dropped == 3


def test_rows_of_a_gateway_that_was_not_heard_of_for_a_day_count_no_more(
    store: SessionStore, overview: Callable[[], Overview]
) -> None:
    seconds, _ = store.client.time()
    store.client.hset(store.names.gateways, "lately", f"{seconds - 3_600}000 2 0")
    store.client.hset(store.names.gateways, "long ago", f"{seconds - 90_000}000 5 0")
    assert (overview().gateways.count, overview().gateways.rows) == (0, 2)
