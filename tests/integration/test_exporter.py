"""The exporter: what Prometheus gets is what Redis holds, and it answers while Redis does not."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.errors import BrokerUnavailable
from hermes_tasks.gate import Ended, Gate, Go, Policy
from hermes_tasks.ops import read_overview, view
from hermes_tasks.ops.exporter import OverviewCollector
from hermes_tasks.ops.metrics import GATES, OTHER, UP, series
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import clean_environment
from hermes_tasks.transport import SessionStore
from tests.integration.test_cli import assert_one_line, hermes_tasks, run

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

HOSTILE = 'evil"\n\\{session="1"} <script>'


class Exporter:
    """``hermes-tasks exporter`` as a child process."""

    def __init__(self, url: str, log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("hermes-tasks"), "exporter", "--port", "0"],
                env=clean_environment() | {"HERMES_TASKS_BROKER_URL": url},
                stdout=file,
                stderr=file,
            )
        wait_until(lambda: "metrics: " in log.read_text(), 20, "the exporter to listen")
        self.url = log.read_text().rpartition("metrics: ")[2].split()[0]

    def text(self) -> str:
        with urlopen(self.url, timeout=20) as response:
            text: str = response.read().decode()
            return text

    def values(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """Every value, by its name and those of its labels in their order."""
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Callable[[str], Exporter]]:
    started: list[Exporter] = []

    def start(url: str) -> Exporter:
        started.append(Exporter(url, tmp_path / "exporter.log"))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def busy(store: SessionStore) -> None:
    """A little of everything: turns written, given up, waiting; a gate that is well and one not."""
    for session in ("default:home:a", "poison", "nobody-knows", HOSTILE):
        store.push(session, "{}", id=f"t of {session}")
    for reason in ("poison", "nobody-knows"):
        store.bury(reason, claim(store, reason), f"t of {reason}", reason=reason)
    claimed = claim(store, "default:home:a")
    home = Gate(store, Policy(), "default:home")
    answer = home.admit("default:home:a", claimed, (1, 1), "w#1", 2)
    assert isinstance(answer, Go)
    home.report(answer, Ended.OK, 0.2)
    store.commit("default:home:a", claimed, ["t of default:home:a"])
    away = Gate(store, Policy(), "default:away")
    for number in range(3):
        session = f"default:away:{number}"
        store.push(session, "{}", id="t")
        answer = away.admit(session, claim(store, session), (1, 1), f"w#{number}", 1)
        assert isinstance(answer, Go)
        away.report(answer, Ended.FAILED, 1.0)


def claim(store: SessionStore, session: str) -> str:
    number = int(store.client.zscore(store.names.ready, session) or 0)
    token = f"token of {session}"
    assert store.claim(session, number, token, "worker") is not None
    return token


def test_prometheus_gets_what_redis_holds(
    server: Server, exporter: Callable[[str], Exporter]
) -> None:
    store = SessionStore(server.client())
    busy(store)
    running = exporter(server.url)
    found, overview = running.values(), read_overview(store, Policy())
    assert found[UP, ()] == 1

    # Everything of the table is there, with the labels that it says
    text = running.text()
    for name, labels in series():
        if (name, labels) == ("hermes_tasks_gate_limit_calls", ("gate",)):
            continue  # nothing limits calls before a recovery
        assert any(key[0] == name and len(key[1]) == len(labels) for key in found), name
    # and no session, whatever it is called.
    assert "script" not in text

    assert found["hermes_tasks_turns_accepted_total", ()] == overview.accepted == 7
    assert found["hermes_tasks_turns_written_total", ()] == overview.written == 1
    assert found["hermes_tasks_turns_given_up_total", ("poison",)] == 1
    assert found["hermes_tasks_turns_given_up_total", (OTHER,)] == 1
    assert found["hermes_tasks_turns_given_up_total", ("overflow",)] == 0
    assert found["hermes_tasks_turns_unsettled", ()] == overview.unsettled == 4
    assert found["hermes_tasks_dead_letters", ()] == 2
    assert found["hermes_tasks_sessions", ("leased",)] == overview.sessions["leased"]
    assert found["hermes_tasks_gates", ("open",)] == 1
    assert found["hermes_tasks_gate_state", ("default:away", "open")] == 1
    assert found["hermes_tasks_gate_state", ("default:home", "closed")] == 1
    assert found["hermes_tasks_gate_calls_total", ("default:away",)] == 3
    assert found["hermes_tasks_gate_p95_seconds", ("default:home", "4")] == pytest.approx(0.2)
    assert found["hermes_tasks_turn_age_seconds_count", ()] == 1
    assert found["hermes_tasks_call_duration_seconds_count", ("default:away",)] == 3
    assert found["hermes_tasks_call_duration_seconds_bucket", ("default:away", "0.5")] == 0
    assert found["hermes_tasks_call_duration_seconds_bucket", ("default:away", "1")] == 3
    assert found["hermes_tasks_call_duration_seconds_bucket", ("default:away", "+Inf")] == 3
    assert found["hermes_tasks_call_duration_seconds_sum", ("default:away",)] == pytest.approx(3)

    away = Gate(store, Policy(), "default:away")
    away.open(why="planned")
    assert running.values()["hermes_tasks_gates", ("open",)] == 0
    assert running.values()["hermes_tasks_gates", ("maintenance",)] == 1

    # Prometheus itself finds nothing to complain about.
    if promtool := shutil.which("promtool"):
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr

    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0


def test_it_answers_while_redis_is_away(
    make_server: Callable[..., Server], exporter: Callable[[str], Exporter]
) -> None:
    server = make_server(password="swordfish")
    server.stop()
    running = exporter(server.url)
    began = time.monotonic()
    assert running.values() == {(UP, ()): 0}
    assert time.monotonic() - began < 2
    server.start()
    wait_until(lambda: running.values()[UP, ()] == 1, 10, "Redis to be there")
    server.kill()
    assert running.values() == {(UP, ()): 0}
    assert running.values() == {(UP, ()): 0}
    said = running.log.read_text()
    assert "swordfish" not in said
    assert said.count("there are no metrics") == 2
    # Ctrl-C ends it as well as SIGTERM does
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(10) == 0


def test_a_redis_that_hangs_is_waited_for_once_by_all_who_ask(
    server_type: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given what accepts connections and never answers
    monkeypatch.setattr(view, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        settings = Settings(broker_url=f"redis://127.0.0.1:{hangs.getsockname()[1]}/0")
        asked = view.View(make_app(settings, set_as_current=False), settings.broker_url)
        # When several ask at once
        began = time.monotonic()
        with ThreadPoolExecutor(5) as pool:
            failed = [pool.submit(asked.ask, lambda store: store.names) for _ in range(5)]
        # I expect all of them to be told at once
        assert all(isinstance(one.exception(), BrokerUnavailable) for one in failed)
        assert time.monotonic() - began < 4


def test_there_are_no_more_series_with_more_sessions_or_workspaces(server: Server) -> None:
    store = SessionStore(server.client())

    def lines(sessions: range) -> int:
        for number in sessions:
            name = f"default:w{number}:s"
            store.push(name, "{}", id="t")
            gate = Gate(store, Policy(), f"default:w{number}")
            answer = gate.admit(name, claim(store, name), (1, 1), f"w#{number}", 1)
            assert isinstance(answer, Go)
            gate.report(answer, Ended.OK, 0.1)
        registry = CollectorRegistry()
        registry.register(OverviewCollector(lambda: read_overview(store, Policy())))
        return len(generate_latest(registry).splitlines())

    assert lines(range(GATES)) == lines(range(GATES, 2 * GATES))


def test_a_port_that_is_taken_is_one_line(
    server: Server, exporter: Callable[[str], Exporter]
) -> None:
    port = exporter(server.url).url.rpartition(":")[2].partition("/")[0]
    result = hermes_tasks("exporter", "--port", port, HERMES_TASKS_BROKER_URL=server.url)
    assert_one_line(result, 2, f"port {port}")


def test_without_its_extra_it_says_what_to_install(server_type: type[Server]) -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None;"
        "from hermes_tasks.cli import main; main(['exporter'])"
    )
    result = run(sys.executable, "-c", code, env={})
    assert_one_line(result, 2, "pip install 'hermes-tasks[metrics]'")
