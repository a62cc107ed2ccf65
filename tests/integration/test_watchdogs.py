"""Each phase of a call is cut at its own time, by name, and leaves the connections in order."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import httpx
import pytest

from hermes_tasks.config import Settings
from hermes_tasks.errors import DeadlineExceeded, HonchoError, Unreachable
from hermes_tasks.honcho import watchdogs as module
from hermes_tasks.honcho.client import HonchoClient
from hermes_tasks.honcho.deadline import Call, DeadlineTransport, current
from hermes_tasks.honcho.failures import translate
from hermes_tasks.honcho.watchdogs import Watchdogs
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.server_config import Tls
from hermes_tasks.testing.workers import clean_environment
from tests.integration.raw_server import (
    HEADERS,
    Connection,
    RawServer,
    Script,
    deaf,
    deaf_port,
    dripping,
    late,
    silent,
    stalling,
    tls,
    tunnel,
    well,
)

SLACK = 1.0
"""Seconds that a busy machine may take longer; what is not cut takes far more."""

LONG = 30.0
"""Seconds that no test gets to."""

Serve = Callable[..., RawServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers of scripts, and ends them."""
    started: list[RawServer] = []

    def start(*scripts: Script, **options: Any) -> RawServer:
        started.append(RawServer(*scripts, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


class Service:
    """Makes calls to one address, as the client does, and remembers how long each took."""

    def __init__(self, url: str, **watchdogs: Any) -> None:
        self._url = url
        # Those that a test does not speak of are far away.
        self.transport = DeadlineTransport(
            url, Watchdogs(**({"connect": LONG, "first_byte": LONG, "idle": LONG} | watchdogs))
        )
        self._http = httpx.Client(transport=self.transport, trust_env=False)
        self.took = 0.0

    def send(self, call: Call, content: bytes = b"{}") -> bytes:
        began = time.monotonic()
        token = current.set(call)
        try:
            return self._http.post(f"{self._url}/", content=content).content
        except httpx.HTTPError as error:
            failure, cause = translate(error, call, "a test")
        finally:
            current.reset(token)
            self.took = time.monotonic() - began
        raise failure from cause

    def fail(
        self, says: str, kind: type[HonchoError], call: Call, at: float, content: bytes = b"{}"
    ) -> None:
        """Send, expecting to be cut at ``at`` seconds with these words."""
        with pytest.raises(HonchoError) as caught:
            self.send(call, content)
        assert str(caught.value) == f"{says}: a test"
        assert type(caught.value) is kind
        assert caught.value.may_have_been_written is (kind is DeadlineExceeded)
        assert at - 0.02 <= self.took <= at + SLACK

    @property
    def open(self) -> int:
        """Connections in the pool."""
        return len(self.transport._pool.connections)

    def close(self) -> None:
        self._http.close()


Connect = Callable[..., Service]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes services, and closes their connections in the end."""
    made: list[Service] = []

    def make(url: str, **watchdogs: Any) -> Service:
        made.append(Service(url, **watchdogs))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[str]], None]:
    """Gives a name addresses: the only part of a connection that is not real here."""

    def to(name: str, addresses: list[str]) -> None:
        real = socket.getaddrinfo

        def lookup(host: Any, port: Any, *more: Any, **options: Any) -> list[Any]:
            hosts = addresses if host == name else [host]
            return [found for one in hosts for found in real(one, port, *more, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", lookup)

    return to


# -- each phase ---------------------------------------------------------------------------------


def test_a_service_that_accepts_and_says_nothing_is_cut_at_the_first_byte(
    serve: Serve, connect: Connect
) -> None:
    server = serve(silent, well)
    service = connect(server.url, first_byte=0.2)
    service.fail("no first byte within 0.2 s", DeadlineExceeded, Call(LONG), at=0.2)
    assert server.ends.get(timeout=5) == "reset"
    assert service.send(Call(LONG)) == b"{}"
    assert server.accepted == 2
    assert service.open == 1


def test_a_service_that_drips_is_cut_at_the_total(serve: Serve, connect: Connect) -> None:
    server = serve(dripping(0.05), well)
    service = connect(server.url, first_byte=0.3, idle=0.3)
    service.fail("no complete answer within 0.6 s", DeadlineExceeded, Call(0.6), at=0.6)
    assert server.ends.get(timeout=5) == "reset"
    assert service.send(Call(LONG)) == b"{}"
    assert service.open == 1


@pytest.mark.parametrize(
    "said", [b"H", HEADERS[:40], HEADERS, HEADERS + b"x" * 999], ids=["H", "some", "all", "body"]
)
def test_a_service_that_stalls_in_its_answer_is_cut_when_it_falls_silent(
    serve: Serve, connect: Connect, said: bytes
) -> None:
    server = serve(stalling(said), well)
    service = connect(server.url, idle=0.2)
    service.fail("no byte for 0.2 s", DeadlineExceeded, Call(LONG), at=0.2)
    assert server.ends.get(timeout=5) == "reset"
    assert service.send(Call(LONG)) == b"{}"
    assert service.open == 1


def test_a_service_that_does_not_read_is_cut_when_no_byte_leaves(
    serve: Serve, connect: Connect
) -> None:
    service = connect(serve(deaf).url, idle=0.2)
    # More than the kernel keeps for both ends.
    service.fail("no byte for 0.2 s", DeadlineExceeded, Call(LONG), 0.2, bytes(20_000_000))
    assert service.open == 0


def test_the_first_byte_is_waited_for_when_the_request_has_left(
    serve: Serve, connect: Connect
) -> None:
    def slow_reader(connection: Connection) -> None:
        while connection.sock.recv(200_000):
            connection.over.wait(0.01)

    service = connect(serve(slow_reader).url, first_byte=0.2, idle=2.0)
    content = bytes(20_000_000)
    with pytest.raises(DeadlineExceeded, match=r"^no first byte within 0\.2 s"):
        service.send(Call(LONG), content)
    assert service.took > 0.4  # the request alone takes longer than the first byte may


def test_a_tls_handshake_that_stalls_is_part_of_connecting(serve: Serve, connect: Connect) -> None:
    checked: list[bool] = []
    call = Call(LONG, lambda: checked.append(True))
    service = connect(serve(deaf).url.replace("http:", "https:"), connect=0.2, first_byte=0.1)
    service.fail("no connection within 0.2 s", Unreachable, call, at=0.2)
    assert not call.sent
    assert not checked
    assert service.open == 0


def test_two_addresses_that_do_not_answer_share_one_time(
    connect: Connect, resolve: Callable[[str, list[str]], None]
) -> None:
    resolve("honcho.test", ["127.0.0.2", "127.0.0.3"])
    with deaf_port("127.0.0.2") as port, deaf_port("127.0.0.3", port):
        service = connect(f"http://honcho.test:{port}", connect=0.6)
        service.fail("no connection within 0.6 s", Unreachable, Call(LONG), at=0.6)
        assert service.took < 1.1
        assert service.open == 0


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    serve: Serve, connect: Connect, resolve: Callable[[str, list[str]], None]
) -> None:
    resolve("honcho.test", ["127.0.0.2", "127.0.0.3"])
    with deaf_port("127.0.0.2") as port:
        serve(well, host="127.0.0.3", port=port)
        service = connect(f"http://honcho.test:{port}", connect=0.4)
        assert service.send(Call(LONG)) == b"{}"
        assert service.took > 0.15


def test_tls_has_what_the_addresses_left_it(
    serve: Serve, connect: Connect, resolve: Callable[[str, list[str]], None]
) -> None:
    resolve("honcho.test", ["127.0.0.2", "127.0.0.3"])
    with deaf_port("127.0.0.2") as port:
        serve(deaf, host="127.0.0.3", port=port)
        service = connect(f"https://honcho.test:{port}", connect=0.8)
        service.fail("no connection within 0.8 s", Unreachable, Call(LONG), at=0.8)
        assert service.took < 1.15  # half of it was gone when TLS began


@pytest.mark.parametrize("script", [silent, tunnel(deaf)], ids=["tunnel", "tls"])
def test_a_proxy_whose_tunnel_does_not_open_is_part_of_connecting(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    monkeypatch.setenv("https_proxy", serve(script).url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    service = connect("https://honcho.invalid", connect=0.2, first_byte=0.1, idle=0.1)
    call = Call(LONG)
    service.fail("no connection within 0.2 s", Unreachable, call, at=0.2)
    assert not call.sent


@pytest.mark.parametrize("proxy", [False, True], ids=["direct", "proxy"])
def test_in_tls_the_phases_are_those_of_the_request(
    serve: Serve,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    tls_files: Tls,
    proxy: bool,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_files.authority))
    scripts = [tls(tls_files, silent), tls(tls_files, well)]
    if proxy:
        scripts = [tunnel(script) for script in scripts]
    server = serve(*scripts)
    if proxy:
        monkeypatch.setenv("https_proxy", server.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
    url = f"https://127.0.0.1:{1 if proxy else server.port}"
    service = connect(url, connect=5.0, first_byte=0.2)
    checked: list[bool] = []
    service.fail(
        "no first byte within 0.2 s",
        DeadlineExceeded,
        Call(LONG, lambda: checked.append(True)),
        0.2,
    )
    assert server.ends.get(timeout=5) == "reset"
    for _ in range(3):
        assert service.send(Call(LONG, lambda: checked.append(True))) == b"{}"
    assert len(checked) == 4  # once for each request, whatever a tunnel takes
    assert server.accepted == 2
    assert service.open == 1


def test_a_refused_connection_is_said_at_once(connect: Connect) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        service = connect(f"http://127.0.0.1:{taken.getsockname()[1]}")
        service.fail("no connection to Honcho", Unreachable, Call(LONG), at=0.0)


@pytest.mark.parametrize("host", ["honcho.invalid", "x" * 64 + ".test"])
def test_a_host_without_an_address_is_no_connection(connect: Connect, host: str) -> None:
    service = connect(f"http://{host}")
    with pytest.raises(Unreachable, match=r"^no connection to Honcho"):
        service.send(Call(LONG))


# -- what it is given ---------------------------------------------------------------------------


def test_the_first_byte_may_take_longer_for_more_messages(serve: Serve, connect: Connect) -> None:
    service = connect(serve(late(0.8)).url, first_byte=0.2)
    service.fail("no first byte within 0.2 s", DeadlineExceeded, Call(LONG), at=0.2)
    service.fail("no first byte within 0.3 s", DeadlineExceeded, Call(LONG, messages=10), at=0.3)
    assert service.send(Call(LONG, messages=100)) == b"{}"


def test_strictly_it_may_not(serve: Serve, connect: Connect) -> None:
    service = connect(serve(late(0.8)).url, first_byte=0.2, strict=True)
    service.fail("no first byte within 0.2 s", DeadlineExceeded, Call(LONG, messages=100), at=0.2)


@pytest.mark.parametrize(
    ("phase", "script", "scheme", "says", "kind"),
    [
        ("connect", deaf, "https", "no connection within 0.3 s", Unreachable),
        ("first_byte", silent, "http", "no first byte within 0.3 s", DeadlineExceeded),
        ("idle", stalling(HEADERS), "http", "no complete answer within 0.3 s", DeadlineExceeded),
    ],
)
def test_a_phase_of_no_seconds_is_left_to_the_total(
    serve: Serve,
    connect: Connect,
    phase: str,
    script: Script,
    scheme: str,
    says: str,
    kind: type[HonchoError],
) -> None:
    others = {name: 0.1 for name in ("connect", "first_byte", "idle") if name != phase}
    service = connect(serve(script).url.replace("http", scheme), **others | {phase: 0})
    service.fail(says, kind, Call(0.3), at=0.3)


def test_the_total_counts_from_where_it_is_told(serve: Serve, connect: Connect) -> None:
    service = connect(serve(silent).url)
    call = Call(LONG, began=time.monotonic() - LONG + 0.2)
    service.fail("no first byte within 30.0 s", DeadlineExceeded, call, at=0.2)


def test_a_call_whose_time_is_over_sends_nothing(serve: Serve, connect: Connect) -> None:
    server = serve(well)
    service = connect(server.url)
    service.send(Call(LONG))
    call = Call(1.0, began=time.monotonic() - 1.0)
    with pytest.raises(DeadlineExceeded, match=r"^no complete answer within 1\.0 s") as caught:
        service.send(call)
    assert not caught.value.may_have_been_written
    assert server.ends.get(timeout=5) == "reset"


def test_each_request_of_a_call_is_checked_when_its_first_byte_leaves(
    serve: Serve, connect: Connect
) -> None:
    service = connect(serve(well).url)
    checked: list[bool] = []
    call = Call(LONG, lambda: checked.append(call.sent))
    for _ in range(2):
        service.send(call, bytes(100_000))
    assert checked == [False, True]


def test_a_setting_above_the_ceiling_is_cut_to_it_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_said", set())
    monkeypatch.setenv("HERMES_TASKS_FIRST_BYTE_SECONDS", "90")
    monkeypatch.setenv("HERMES_TASKS_TIMEOUT_CEILING", "8")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watchdogs = Watchdogs.from_settings(Settings())
    # Nobody has set the other two.
    assert watchdogs == Watchdogs(connect=8, first_byte=8, idle=8)
    assert [record.getMessage() for record in caplog.records] == [
        "HERMES_TASKS_FIRST_BYTE_SECONDS is 90 s: cut to HERMES_TASKS_TIMEOUT_CEILING, 8 s"
    ]


def test_settings_within_the_ceiling_are_taken_as_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(
        connect_seconds=0, first_byte_seconds=7, idle_seconds=3, first_byte_strict=True
    )
    assert Watchdogs.from_settings(settings) == Watchdogs(0, 7, 3, strict=True)
    assert Watchdogs.from_settings(Settings()) == Watchdogs()
    assert not caplog.records


# -- the connections ----------------------------------------------------------------------------


def test_fifty_calls_with_fifty_deadlines_share_one_connection(
    serve: Serve, connect: Connect
) -> None:
    server = serve(well)
    service = connect(server.url, first_byte=5.0, idle=5.0)
    for i in range(50):
        assert service.send(Call(1.0 + i / 10, messages=i)) == b"{}"
    assert server.accepted == 1
    assert service.open == 1


def test_calls_that_are_cut_leave_nothing_in_the_pool(serve: Serve, connect: Connect) -> None:
    server = serve(silent)
    service = connect(server.url, first_byte=0.02)
    for _ in range(10):
        service.fail("no first byte within 0.02 s", DeadlineExceeded, Call(LONG), at=0.02)
        assert server.ends.get(timeout=5) == "reset"
        assert service.open == 0
    assert service.transport._pool._requests == []


def test_a_call_that_is_interrupted_is_aborted(serve: Serve, connect: Connect) -> None:
    server = serve(silent, well)
    service = connect(server.url)

    class TimeLimit(Exception):
        """As that of Celery's prefork pool, raised from a signal."""

    def interrupt(*_: object) -> NoReturn:
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(TimeLimit):
            service.send(Call(LONG))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert server.ends.get(timeout=5) == "reset"
    assert service.send(Call(LONG)) == b"{}"
    assert service.open == 1


def test_threads_are_cut_each_at_its_own_time(serve: Serve, connect: Connect) -> None:
    service = connect(serve(silent).url)
    took: dict[int, float] = {}

    def work(number: int) -> None:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            service.send(Call(0.2 + number / 10))
        took[number] = time.monotonic() - began

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == 8
    for number, seconds in took.items():
        assert -0.02 <= seconds - (0.2 + number / 10) <= SLACK
    assert service.open == 0


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent, json, sys, time
import httpx
from hermes_tasks.honcho.deadline import Call, DeadlineTransport, current
from hermes_tasks.honcho.watchdogs import Watchdogs

url = sys.argv[1]
http = httpx.Client(transport=DeadlineTransport(url, Watchdogs(first_byte=0.2)), trust_env=False)

def work(messages):
    call = Call(30.0, messages=messages)
    current.set(call)
    began = time.monotonic()
    try:
        http.post(url + "/")
    except httpx.ReadTimeout:
        pass
    return [call.ran_out, time.monotonic() - began]

began = time.monotonic()
jobs = [gevent.spawn(work, messages) for messages in range(0, 40, 4)]
gevent.joinall(jobs, raise_error=True)
print(json.dumps([[job.value for job in jobs], time.monotonic() - began]))
"""


def test_greenlets_are_cut_each_at_its_own_time(serve: Serve) -> None:
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS, serve(silent).url],
        env=clean_environment(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    cut, took = json.loads(done.stdout)
    for number, (says, seconds) in enumerate(cut):
        expected = 0.2 * (1 + number * 4 / 20)
        assert says == f"no first byte within {expected:.2g} s"
        assert -0.02 <= seconds - expected <= SLACK
    assert took < sum(seconds for _, seconds in cut) / 2


# -- against the stand-in, through the SDK ------------------------------------------------------


@pytest.fixture(scope="module")
def honcho() -> Iterator[HonchoServer]:
    with HonchoServer() as server:
        yield server


@pytest.fixture
def client(honcho: HonchoServer) -> Iterator[HonchoClient]:
    """A client that has been at the service already."""
    honcho.clear()
    client = HonchoClient(honcho.url, watchdogs=Watchdogs(first_byte=0.3, idle=0.3, strict=True))
    write(client, Call(LONG))
    yield client
    client.close()


def write(client: HonchoClient, call: Call) -> None:
    message = {"peer_id": "igor", "content": "hi"}
    client.add_messages("w", "s", [message], call=call)


@pytest.mark.honcho
@pytest.mark.parametrize(
    ("fault", "seconds", "says"),
    [
        ({"stall": 1.0}, LONG, "no first byte within 0.3 s"),
        ({"stall": 1.0, "after": True}, LONG, "no first byte within 0.3 s"),
        ({"stall": 1.0}, 0.2, "no first byte within 0.2 s"),
        ({"drip": 0.05}, 0.5, "no complete answer within 0.5 s"),
        ({"drip": 0.8}, LONG, "no byte for 0.3 s"),
    ],
)
def test_a_fault_of_the_service_is_named_and_the_next_call_works(
    honcho: HonchoServer, client: HonchoClient, fault: dict[str, Any], seconds: float, says: str
) -> None:
    honcho.control(**fault)
    with pytest.raises(DeadlineExceeded) as caught:
        write(client, Call(seconds))
    assert str(caught.value) == f"{says}: writing 1 messages to session s"
    assert caught.value.may_have_been_written
    write(client, Call(LONG))


@pytest.mark.honcho
def test_the_deadline_of_each_call_leaves_the_connection_of_the_client(
    honcho: HonchoServer, client: HonchoClient
) -> None:
    before = honcho.stats()["connections"]
    for i in range(50):
        write(client, Call(1.0 + i / 10, messages=1))
    assert honcho.stats()["connections"] - before == 1  # the question itself
