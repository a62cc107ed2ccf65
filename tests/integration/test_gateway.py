"""The gateway on real servers and workers: nothing lost, nothing reordered, nobody waits."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from hermes_tasks import Closed, InvalidTurn, StillSyncing, TurnSync
from hermes_tasks.config import Settings
from hermes_tasks.gateway.link import CONNECT_SECONDS
from hermes_tasks.gateway.spool import Spool
from hermes_tasks.gateway.sync import _destination
from hermes_tasks.identity import honcho_id
from hermes_tasks.testing.honcho.server import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import SessionStore
from hermes_tasks.transport.keys import Names
from tests.integration.raw_server import deaf_port

SECRET = "what nobody but Honcho may read"
SESSION = "telegram:42"
RECALLED = "<memory-context>igor likes tea</memory-context>"

one_server = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)

# A gateway process: accepts turns named on the command line, says which it accepted, lives on.
GATEWAY = """
import sys
from hermes_tasks import TurnSync
url, prefix, directory, session, first, last = sys.argv[1:]
sync = TurnSync(broker_url=url, prefix=prefix, outbox_dir=directory)
for number in range(int(first), int(last)):
    messages = [{"peer": "igor", "content": str(number)}]
    receipt = sync.sync_turn(workspace="w", session=session, messages=messages)
    print(number, flush=True)
print("done", flush=True)
sys.stdin.read()
"""

# A gateway that ends, while turns cannot be sent, without having been closed.
NEVER_CLOSED = """
import sys
from hermes_tasks import TurnSync
url, directory = sys.argv[1:]
sync = TurnSync(broker_url=url, outbox_dir=directory)
sync.sync_turn(workspace="w", session="s", messages=[{"peer": "igor", "content": "hello"}])
try:
    sync.flush(workspace="w", session="s", timeout=0.5)
except Exception:
    print("ends", flush=True)
"""


@pytest.fixture(scope="session")
def _shared_honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture
def honcho(_shared_honcho: HonchoServer) -> HonchoServer:
    _shared_honcho.clear()
    return _shared_honcho


@pytest.fixture
def start_worker(worker: Any, honcho: HonchoServer) -> Callable[[], Any]:
    """A worker for which a call to Honcho is over soon, whatever becomes of Redis meanwhile."""
    env = {
        "HONCHO_URL": honcho.url,
        "HERMES_TASKS_TIMEOUT_CEILING": "2",
        "HERMES_TASKS_LANDING_SECONDS": "1",
    }
    return lambda: worker("-P", "threads", "-c", "4", env=env)


@pytest.fixture
def make_gateway(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., TurnSync]]:
    made: list[TurnSync] = []

    def make(**arguments: Any) -> TurnSync:
        defaults: dict[str, Any] = {
            "settings": settings,
            "workspace": "w",
            "outbox_dir": tmp_path / "outbox",
        }
        made.append(TurnSync(**(defaults | arguments)))
        return made[-1]

    yield make
    for gateway in made:
        gateway.close(0)


@pytest.fixture
def black_hole() -> Iterator[str]:
    """URL of a Redis that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def say(gateway: TurnSync, *contents: str, session: str = SESSION) -> None:
    for content in contents:
        gateway.sync_turn(session=session, messages=[{"peer": "igor", "content": content}])


def publishers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "hermes-tasks-publisher"]


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


def written(honcho: HonchoServer, session: str = SESSION) -> list[str]:
    return [message["content"] for message in honcho.log(honcho_id(session))]


def start_gateway(
    settings: Settings, directory: Path, first: int, last: int, session: str = SESSION
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            GATEWAY,
            settings.broker_url,
            settings.prefix,
            str(directory),
            session,
            str(first),
            str(last),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def accepted_by(process: subprocess.Popen[str]) -> list[str]:
    """What the gateway process said it accepted, until it was done or killed."""
    assert process.stdout is not None
    return [line.strip() for line in iter(process.stdout.readline, "") if line != "done\n"]


def test_turns_are_written_in_order_and_flush_waits_for_them(
    make_gateway: Callable[..., TurnSync],
    start_worker: Callable[[], Any],
    honcho: HonchoServer,
) -> None:
    # Given a gateway and a worker,
    start_worker()
    gateway = make_gateway()
    # if turns are accepted for two sessions,
    receipt = gateway.sync_turn(
        session=SESSION,
        messages=[
            {"peer": "igor", "content": f"{RECALLED}hi", "metadata": {"mood": "good"}},
            {"peer": "hermes", "content": "hello"},
        ],
        metadata={"mood": "unknown", "channel": "telegram"},
    )
    say(gateway, *numbers(0, 50))
    say(gateway, *numbers(0, 50), session="other")
    # I expect them in Honcho when flush returns, in order, without what was recalled
    assert gateway.flush(session=SESSION, timeout=20)
    assert written(honcho) == ["hi", "hello", *numbers(0, 50)]
    assert gateway.flush(session="other", timeout=20)
    assert written(honcho, "other") == numbers(0, 50)
    # with what the receipt and the caller said
    hi, hello = honcho.log(honcho_id(SESSION))[:2]
    assert (hi["workspace"], hi["session"]) == (receipt.workspace, receipt.session)
    assert hi["metadata"]["turn_id"] == hello["metadata"]["turn_id"] == receipt.turn_id
    assert (hi["metadata"]["mood"], hello["metadata"]["mood"]) == ("good", "unknown")
    assert hi["metadata"]["channel"] == "telegram"
    assert gateway.pending == gateway.dropped == gateway.refused == 0


@one_server
def test_the_thread_starts_with_the_first_turn(make_gateway: Callable[..., TurnSync]) -> None:
    gateway = make_gateway()
    running = [gateway.is_running]
    say(gateway, "hi")
    running.append(gateway.is_running)
    gateway.close()
    running.append(gateway.is_running)
    assert running == [False, True, False]


@one_server
def test_bad_input_is_refused_at_once_and_without_its_text(
    make_gateway: Callable[..., TurnSync],
) -> None:
    gateway = make_gateway()
    bad: list[dict[str, Any]] = [
        {"session": "", "messages": [{"peer": "igor", "content": SECRET}]},
        {"session": "s", "messages": []},
        {"session": "s", "messages": [{"peer": "igor"}]},
        {"session": "s", "messages": SECRET},
        {"session": "s", "messages": SECRET, "metadata": {}},
        {"session": "s", "messages": [{"peer": "a", "content": SECRET}], "metadata": SECRET},
        {"session": "s", "messages": [{"peer": "a", "content": SECRET}], "turn_id": "no spaces"},
    ]
    for arguments in bad:
        with pytest.raises(InvalidTurn) as caught:
            gateway.sync_turn(**arguments)
        assert SECRET not in str(caught.value)
    assert gateway.pending == 0


@one_server
def test_two_gateways_on_one_session_keep_the_order_of_each(
    make_gateway: Callable[..., TurnSync],
    start_worker: Callable[[], Any],
    honcho: HonchoServer,
) -> None:
    # Given two gateways on one outbox directory and one session, at the same time,
    start_worker()
    gateways = [make_gateway(), make_gateway()]
    threads = [
        threading.Thread(target=say, args=(gateway, *(f"{name}{n}" for n in range(100))))
        for name, gateway in zip("ab", gateways, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for gateway in gateways:
        assert gateway.flush(session=SESSION, timeout=20)
    # I expect every turn once, those of each gateway in its order
    log = written(honcho)
    assert len(log) == 200
    for name in "ab":
        assert [c for c in log if c.startswith(name)] == [f"{name}{n}" for n in range(100)]


@one_server
def test_new_sessions_are_created_once_for_all_who_speak_in_them(
    make_gateway: Callable[..., TurnSync],
    start_worker: Callable[[], Any],
    honcho: HonchoServer,
) -> None:
    # Given two workers, a service that takes its time to create a session, and two gateways,
    for _ in range(2):
        start_worker()
    honcho.control(latency=0.02)
    gateways = [make_gateway(), make_gateway()]
    sessions = [f"new{number}" for number in range(10)]
    # if both begin the same new sessions at the same moment,
    begin = threading.Barrier(len(gateways))

    def speak(gateway: TurnSync, name: str) -> None:
        begin.wait(10)
        for session in sessions:
            say(gateway, f"{name}0", f"{name}1", session=session)

    threads = [
        threading.Thread(target=speak, args=pair) for pair in zip(gateways, "ab", strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for gateway, session in itertools.product(gateways, sessions):
        assert gateway.flush(session=session, timeout=20)
    # I expect all that was said once, in the order of each gateway,
    for session in sessions:
        log = written(honcho, session)
        assert sorted(log) == ["a0", "a1", "b0", "b1"]
        assert [said for said in log if said[0] == "a"] == ["a0", "a1"]
        assert [said for said in log if said[0] == "b"] == ["b0", "b1"]
    # no two calls for a session at once, and its creation asked for by each worker once at most
    stats = honcho.stats()
    assert stats["overlaps"] == 0
    assert len(sessions) <= stats["calls"]["sessions"] <= 2 * len(sessions)


@one_server
def test_turns_survive_a_gateway_killed_while_redis_is_away(
    settings: Settings,
    make_gateway: Callable[..., TurnSync],
    start_worker: Callable[[], Any],
    honcho: HonchoServer,
    server: Server,
    tmp_path: Path,
) -> None:
    # Given a Redis that is dead, and a gateway that accepts turns and is then killed,
    server.kill()
    process = start_gateway(settings, tmp_path / "outbox", 0, 20)
    with process:
        assert process.stdout is not None
        accepted = [process.stdout.readline().strip() for _ in range(20)]
        process.kill()
    assert accepted == numbers(0, 20)
    # if Redis comes back, and a new gateway is made that takes later turns,
    server.start()
    start_worker()
    gateway = make_gateway()
    assert gateway.pending == 20
    say(gateway, *numbers(20, 25))
    # I expect all of them, once and in order
    assert gateway.flush(session=SESSION, timeout=30)
    assert written(honcho) == numbers(0, 25)


@pytest.mark.chaos
@one_server
def test_turns_survive_a_gateway_killed_at_any_moment(
    settings: Settings,
    make_gateway: Callable[..., TurnSync],
    start_worker: Callable[[], Any],
    honcho: HonchoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given room for all that four gateways can accept before they die,
    monkeypatch.setenv("HERMES_TASKS_BACKLOG_LIMIT", "2000")
    # gateways that are killed, one after another, while they accept and publish,
    start_worker()
    accepted: list[str] = []
    for kill_after in (1, 7, 40, 90):
        # One may have been accepted that the process died before it could name.
        first = int(accepted[-1]) + 2 if accepted else 0
        with start_gateway(settings, tmp_path / "outbox", first, first + 200) as process:
            assert process.stdout is not None
            accepted += [process.stdout.readline().strip() for _ in range(kill_after)]
            process.kill()
            # What it said before it died counts as well.
            accepted += accepted_by(process)
    # if another one comes,
    gateway = make_gateway(settings=settings.model_copy(update={"backlog_limit": 2000}))
    assert gateway.flush(session=SESSION, timeout=60)
    # I expect what was accepted, once and in order
    log = written(honcho)
    assert len(log) == len(set(log))
    assert log == sorted(log, key=int)
    assert set(accepted) <= set(log)
    assert len(set(log) - set(accepted)) <= 4


@one_server
def test_redis_may_be_dead_at_the_start_and_in_between(
    make_gateway: Callable[..., TurnSync],
    start_worker: Callable[[], Any],
    honcho: HonchoServer,
    server: Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a Redis that is dead when the gateway starts,
    server.kill()
    gateway = make_gateway()
    say(gateway, *numbers(0, 5))
    # I expect turns to wait, flush to say why, and one warning
    with pytest.raises(StillSyncing) as caught:
        gateway.flush(session=SESSION, timeout=0.5)
    assert caught.value.waiting == 5
    assert 0.5 <= caught.value.seconds < 3
    assert "refused" in caught.value.reason
    assert [r.levelno for r in caplog.records if "gateway" in r.name] == [logging.WARNING]
    # if it comes back, goes and comes back again,
    server.start()
    start_worker()
    assert gateway.flush(session=SESSION, timeout=30)
    server.kill()
    say(gateway, *numbers(5, 10))
    server.start()
    # I expect all of them, once and in order
    assert gateway.flush(session=SESSION, timeout=30)
    assert written(honcho) == numbers(0, 10)


@one_server
def test_a_wrong_password_is_named_and_not_shown(
    make_server: Callable[..., Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a gateway with a wrong password,
    server = make_server(password="correct")
    url = server.url.replace("correct", "mistaken")
    with TurnSync(broker_url=url, workspace="w", outbox_dir=tmp_path / "outbox") as gateway:
        say(gateway, SECRET)
        # I expect the reason, without passwords and conversation
        with pytest.raises(StillSyncing, match=r"WRONGPASS|invalid username-password") as caught:
            gateway.flush(session=SESSION, timeout=0.5)
        told = caplog.text + str(caught.value)
        assert gateway.close(0.1).left == 1
    assert not any(word in told for word in ("mistaken", "correct", SECRET))
    # and the turn to go out when the password is right
    with TurnSync(broker_url=server.url, workspace="w", outbox_dir=tmp_path / "outbox") as gateway:
        wait_until(lambda: gateway.pending == 0, 10, "the turn to be sent")


@one_server
def test_a_black_holed_redis_costs_the_caller_nothing(
    black_hole: str, tmp_path: Path, server_type: type[Server]
) -> None:
    # Given a Redis that takes connections and never answers,
    gateway = TurnSync(broker_url=black_hole, workspace="w", outbox_dir=tmp_path / "outbox")
    say(gateway, "first")
    wait_until(lambda: gateway.is_running, 5, "the thread to start")
    # I expect five turns to be accepted in less than a millisecond each
    took = []
    for number in range(5):
        begun = time.perf_counter()
        say(gateway, str(number))
        took.append(time.perf_counter() - begun)
    assert statistics.median(took) < 0.001
    # flush and close to keep their bounds
    begun = time.perf_counter()
    with pytest.raises(StillSyncing):
        gateway.flush(session=SESSION, timeout=0.2)
    closing = threading.Thread(target=gateway.close, args=(0.5,))
    closing.start()
    # nothing to be taken while it closes
    wait_until(lambda: gateway._spool._closed, 5, "it to close")
    with pytest.raises(Closed):
        say(gateway, "late")
    assert closing.is_alive()
    closing.join()
    report = gateway.close()
    assert time.perf_counter() - begun < 1.7
    # nothing to go on behind it
    assert not publishers()
    # and all of it to be left for later
    assert (report.published, report.left, report.lost) == (0, 6, 0)


@one_server
def test_a_connection_that_is_never_made_does_not_hold_close(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, server_type: type[Server]
) -> None:
    # Given a host that does not even answer connections: its queue of them is full,
    with deaf_port("127.0.0.1") as port:
        gateway = TurnSync(
            broker_url=f"redis://127.0.0.1:{port}/0",
            workspace="w",
            outbox_dir=tmp_path / "outbox",
        )
        say(gateway, "first")
        wait_until(lambda: gateway.is_running, 5, "the thread to start")
        # I expect close to return all the same, with the turn kept,
        begun = time.monotonic()
        assert gateway.close(0.1).left == 1
        assert time.monotonic() - begun < 1.5
        # and the thread to end soon behind it, without a word
        caplog.clear()
        wait_until(lambda: not gateway.is_running, CONNECT_SECONDS + 1, "the thread to end")
        assert not caplog.records


@one_server
def test_the_thread_of_a_caller_does_little(
    black_hole: str, tmp_path: Path, server_type: type[Server]
) -> None:
    # Given a gateway with a backlog, whose Redis never answers,
    gateway = TurnSync(broker_url=black_hole, workspace="w", outbox_dir=tmp_path / "outbox")
    text = "All work and no play makes a queue a dull place to wait in. " * 16
    say(gateway, *[text] * 200)
    # if turns of a kilobyte come five in a row,
    walls, costs = [], []
    for _ in range(60):
        begun, spent = time.perf_counter(), time.thread_time()
        say(gateway, *[text] * 5)
        walls.append(time.perf_counter() - begun)
        costs.append(time.thread_time() - spent)
        time.sleep(0.001)
    # I expect five of them to be done in less than 5 ms, and to cost a tenth of that; the fastest
    # half is looked at, as other processes take their share of the machine
    assert statistics.median(walls) < 0.005
    assert statistics.quantiles(costs, n=4)[0] < 0.001
    gateway.close(0)


def test_an_outbox_is_as_large_and_as_safe_as_its_settings_say(tmp_path: Path) -> None:
    # Given a gateway that may keep 100 turns, each on the disk before it is accepted,
    settings = Settings(
        broker_url="redis://127.0.0.1:1/0", outbox_dir=tmp_path, outbox_rows=100, outbox_sync="full"
    )
    with TurnSync(settings=settings) as gateway:
        say(gateway, *numbers(0, 103))
        # I expect the newest 100, and the others to be counted
        assert (gateway.pending, gateway.dropped) == (100, 3)
        own = gateway._spool._own
        assert own is not None
        assert own._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        gateway.close(0)


@one_server
def test_a_process_that_forgets_to_close_ends_as_soon_as_others(
    black_hole: str, tmp_path: Path, server_type: type[Server]
) -> None:
    # Given a gateway process whose Redis never answers,
    arguments = [sys.executable, "-c", NEVER_CLOSED, black_hole, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ends\n"
        # I expect nothing to hold it when it ends
        begun = time.monotonic()
        assert process.wait(20) == 0
        assert time.monotonic() - begun < 2
    # and its turn to be kept
    spool = Spool(tmp_path, _destination(Settings(broker_url=black_hole)))
    assert spool.pending == 1
    spool.close()


def test_turns_that_close_cannot_save_are_counted(
    black_hole: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given neither a Redis that answers nor a directory for the outbox,
    (tmp_path / "file").touch()
    gateway = TurnSync(
        broker_url=black_hole, workspace="w", outbox_dir=tmp_path / "file" / "outbox"
    )
    say(gateway, SECRET, SECRET)
    # I expect close to say how many turns are lost, twice: to the caller and to the log
    report = gateway.close(0.1)
    assert (report.published, report.left, report.lost) == (0, 2, 2)
    assert "2 turns are lost" in caplog.text
    assert SECRET not in caplog.text


@one_server
def test_close_reports_once_and_ends_everything(
    make_gateway: Callable[..., TurnSync], redis_client: redis.Redis, settings: Settings
) -> None:
    # Given a gateway with turns on their way,
    gateway = make_gateway()
    say(gateway, *numbers(0, 20))
    # if it is closed, twice,
    report = gateway.close()
    assert gateway.close(0) == report
    # I expect them in Redis, nothing left, and no further turn
    assert (report.left, report.lost) == (0, 0)
    stats: Any = redis_client.hgetall(f"{{{settings.prefix}}}:stats")
    assert stats[b"accepted"] == b"20"
    with pytest.raises(Closed):
        say(gateway, "late")
    with pytest.raises(Closed):
        gateway.flush(session=SESSION, timeout=1)
    assert not publishers()


def test_a_signal_handler_may_close_what_is_being_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a gateway that a signal closes, and a turn that cannot be sent,
    gateway = TurnSync(broker_url="redis://127.0.0.1:1/0", outbox_dir=tmp_path)
    say(gateway, "hello")
    publisher, reports = gateway._publisher, []
    before = signal.signal(signal.SIGUSR1, lambda *_: reports.append(gateway.close(0.1)))
    # if the signal comes while it is being closed,
    with monkeypatch.context() as patch:

        def interrupted(timeout: float) -> None:
            patch.undo()
            signal.raise_signal(signal.SIGUSR1)
            publisher.close(timeout)

        patch.setattr(publisher, "close", interrupted)
        try:
            reports.append(gateway.close(0.1))
        finally:
            signal.signal(signal.SIGUSR1, before)
    # I expect both to return, with the same report
    assert [report.left for report in reports] == [1, 1]
    assert reports[0] is reports[1]


@one_server
def test_a_flush_without_a_worker_says_so(
    make_gateway: Callable[..., TurnSync],
    start_worker: Callable[[], Any],
    settings: Settings,
) -> None:
    # Given turns in Redis and no worker,
    gateway = make_gateway()
    say(gateway, "1", "2", "3")
    # I expect flush to tell how many wait, for how long and for what
    with pytest.raises(StillSyncing, match=r"3 turns wait .* no worker") as caught:
        gateway.flush(session=SESSION, timeout=0.3)
    assert caught.value.waiting == 3
    assert 0.3 <= caught.value.seconds < 2
    # and to succeed when one comes, also when it waits already
    waiter = threading.Thread(target=gateway.flush, kwargs={"session": SESSION, "timeout": 30})
    waiter.start()
    start_worker()
    waiter.join(30)
    assert not waiter.is_alive()
    assert gateway.flush(session=SESSION, timeout=5)


@one_server
def test_a_flush_of_a_sleeping_session_says_until_when(
    make_gateway: Callable[..., TurnSync],
    start_worker: Callable[[], Any],
    honcho: HonchoServer,
) -> None:
    # Given a Honcho that fails,
    honcho.control(fail=503, times=1000)
    start_worker()
    gateway = make_gateway()
    say(gateway, "1")

    def asleep() -> StillSyncing | None:
        with pytest.raises(StillSyncing) as caught:
            gateway.flush(session=SESSION, timeout=0.1)
        return caught.value if "attempt" in caught.value.reason else None

    # I expect flush to tell when the next attempt is
    told = wait_until(asleep, 15, "the session to sleep")
    assert "HTTP 503" in told.reason
    assert "the next is at" in told.reason
    assert 0 <= told.retry_after < 61
    honcho.control(reset=True)
    assert gateway.flush(session=SESSION, timeout=30)


@one_server
def test_a_row_that_cannot_be_sent_blocks_nothing(
    settings: Settings,
    make_gateway: Callable[..., TurnSync],
    start_worker: Callable[[], Any],
    honcho: HonchoServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given an outbox whose second row is no JSON and whose third is no turn,
    with TurnSync(settings=settings, workspace="w", outbox_dir=tmp_path / "outbox") as sender:
        say(sender, "1")
        wait_until(lambda: sender.pending == 0, 10, "the first turn to be sent")
    key = f"default:w:{honcho_id(SESSION)}"
    spool = Spool(tmp_path / "outbox", _destination(settings))
    spool.append(key, "bad", SECRET)
    spool.append(key, "worse", json.dumps({"text": SECRET}))
    spool.close()
    # if a gateway sends it,
    start_worker()
    gateway = make_gateway()
    say(gateway, "2", "3")
    # I expect the others to be written, and both to be kept aside
    assert gateway.flush(session=SESSION, timeout=20)
    assert written(honcho) == ["1", "2", "3"]
    assert gateway.refused == 2
    (kept,) = (tmp_path / "outbox").glob("refused-*.db")
    with sqlite3.connect(kept) as database:
        assert database.execute("SELECT turn_id FROM refused").fetchall() == [("bad",), ("worse",)]
    database.close()
    assert SECRET not in caplog.text


@one_server
def test_a_gap_is_closed_by_sending_without_predecessor(
    settings: Settings, make_gateway: Callable[..., TurnSync], redis_client: redis.Redis
) -> None:
    # Given three rows of which the middle one, which the third names, can never be sent,
    gateway = make_gateway()
    key = f"default:w:{honcho_id(SESSION)}"
    spool = gateway._spool
    redis_client.client_pause(300)
    say(gateway, "1")
    spool.append(key, "bad", "no JSON")
    say(gateway, "3")
    # I expect Redis to answer gap for the third, and to get it in the end
    wait_until(lambda: gateway.pending == 0, 10, "the rows to be sent")
    stats: Any = redis_client.hgetall(f"{{{settings.prefix}}}:stats")
    assert (stats[b"accepted"], stats[b"gap"]) == (b"2", b"1")
    assert gateway.refused == 1


@one_server
def test_a_gap_behind_a_turn_that_redis_has_from_elsewhere_is_closed_too(
    settings: Settings, make_gateway: Callable[..., TurnSync], redis_client: redis.Redis
) -> None:
    # Given a turn that Redis has queued, without knowing its number at this gateway,
    # as when turns of many dead gateways were sent again,
    gateway = make_gateway()
    key = f"default:w:{honcho_id(SESSION)}"
    say(gateway, "1")
    wait_until(lambda: gateway.pending == 0, 10, "the first turn to be sent")
    SessionStore(redis_client, Names(settings.prefix)).push(key, "{}", id="known")
    # if that turn is sent again in one batch with the one behind it,
    redis_client.client_pause(300)
    message = {"peer": "igor", "content": "2"}
    gateway.sync_turn(session=SESSION, messages=[message], turn_id="known")
    gateway.sync_turn(session=SESSION, messages=[message], turn_id="next")
    wait_until(lambda: gateway.pending == 0, 10, "the rows to be sent")
    # I expect both to be there
    prefix = f"{{{settings.prefix}}}"
    stats: Any = redis_client.hgetall(f"{prefix}:stats")
    assert (stats[b"duplicate"], stats[b"gap"]) == (b"1", b"1")
    ids: Any = redis_client.smembers(f"{prefix}:session:{key}:ids")
    assert ids > {b"known", b"next"}


@one_server
def test_a_broken_session_in_redis_does_not_stop_the_others(
    settings: Settings, make_gateway: Callable[..., TurnSync], redis_client: redis.Redis
) -> None:
    # Given a session whose key in Redis is something else,
    key = f"default:w:{honcho_id(SESSION)}"
    redis_client.set(f"{{{settings.prefix}}}:session:{key}", "not a hash")
    # if turns come for it and for another,
    gateway = make_gateway()
    say(gateway, "1")
    say(gateway, "2", session="other")
    # I expect the first to be kept aside after a few attempts, and the other to go on
    wait_until(lambda: gateway.pending == 0, 20, "the rows to be sent")
    assert gateway.refused == 1
    stats: Any = redis_client.hgetall(f"{{{settings.prefix}}}:stats")
    assert stats[b"accepted"] == b"1"


@one_server
@pytest.mark.parametrize("trouble", ["replica", "memory"])
def test_a_redis_that_takes_no_writes_is_waited_for(
    make_gateway: Callable[..., TurnSync], redis_client: redis.Redis, trouble: str
) -> None:
    # Given a Redis that became a replica, as the old master does after a failover, or is full,
    if trouble == "replica":
        redis_client.replicaof("127.0.0.1", "1")
    else:
        redis_client.config_set("maxmemory", 1)
    try:
        gateway = make_gateway()
        say(gateway, SECRET)
        with pytest.raises(StillSyncing, match=r"ReadOnlyError|OutOfMemoryError") as caught:
            gateway.flush(session=SESSION, timeout=1)
        assert SECRET not in str(caught.value)
    finally:
        redis_client.replicaof("NO", "ONE")
        redis_client.config_set("maxmemory", 0)
    # I expect the turn to be sent when it takes writes again, not to be given up
    wait_until(lambda: gateway.pending == 0, 20, "the turn to be sent")
    assert gateway.refused == 0


@one_server
def test_an_outbox_that_was_sent_already_is_written_once(
    settings: Settings,
    start_worker: Callable[[], Any],
    make_gateway: Callable[..., TurnSync],
    honcho: HonchoServer,
    server: Server,
    tmp_path: Path,
) -> None:
    # Given a gateway that died after Redis accepted its turns, before it could take them out:
    # a copy of its outbox from before, put back after,
    server.kill()
    with start_gateway(settings, tmp_path / "outbox", 0, 10) as process:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(10)] == numbers(0, 10)
        process.kill()
    shutil.copytree(tmp_path / "outbox", tmp_path / "copy")
    server.start()
    start_worker()
    first = make_gateway()
    assert first.flush(session=SESSION, timeout=30)
    first.close()
    # if another gateway sends it again, after all were written,
    second = make_gateway(outbox_dir=tmp_path / "copy")
    assert second.pending == 10
    assert second.flush(session=SESSION, timeout=30)
    # I expect each in Honcho once, in order
    assert written(honcho) == numbers(0, 10)
