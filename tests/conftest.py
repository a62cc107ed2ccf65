"""Real servers and real worker processes for every test that wants them.

``server`` is each of the Redis-compatible servers in turn. A test that is too long to run twice
says ``@pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)``.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import settings as hypothesis_settings

from hermes_tasks.config import Settings
from hermes_tasks.errors import ConfigurationError
from hermes_tasks.testing.server_config import Tls
from hermes_tasks.testing.servers import EmbeddedValkey, RedisServer, Server
from hermes_tasks.testing.workers import WorkerProcess

# The first examples start servers; a slow machine is not a failure.
hypothesis_settings.register_profile("hermes", deadline=None)
hypothesis_settings.load_profile("hermes")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the developer's settings, outbox or broker data."""
    for name in list(os.environ):
        if name.startswith(("HERMES_TASKS_", "HONCHO_", "CELERY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def _own_log_level() -> None:
    """Celery's test worker leaves the root logger at ERROR: no test inherits that."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session", params=[EmbeddedValkey, RedisServer], ids=lambda kind: kind.name)
def server_type(request: pytest.FixtureRequest) -> type[Server]:
    """The kind of server; one that is missing here is skipped, but not in CI."""
    kind: type[Server] = request.param
    try:
        kind.program()
    except ConfigurationError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs it: {error}")
        pytest.skip(str(error))
    return kind


@pytest.fixture(scope="session")
def _shared_server(server_type: type[Server]) -> Iterator[Server]:
    with server_type() as server:
        yield server


@pytest.fixture
def server(_shared_server: Server) -> Server:
    """A running server, empty, without a password. A test that hurts it takes ``make_server``."""
    _shared_server.start()
    with _shared_server.client() as client:
        client.flushdb()
    return _shared_server


@pytest.fixture
def make_server(server_type: type[Server]) -> Iterator[Callable[..., Server]]:
    """Starts further servers, with any options of ``Server``, and stops them at the end."""
    started: list[Server] = []

    def make(**options: Any) -> Server:
        server = server_type(**options)
        started.append(server)
        return server.start()

    yield make
    for server in started:
        server.stop()


@pytest.fixture
def redis_client(server: Server) -> Iterator[redis.Redis]:
    """A plain client of ``server``, to look at its keys."""
    with server.client() as client:
        yield client


@pytest.fixture
def prefix() -> str:
    """A key prefix of this test's own."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings(server: Server, prefix: str) -> Settings:
    """Settings for ``server``, with this test's prefix."""
    return Settings(broker_url=server.url, prefix=prefix)


class StartWorker(Protocol):
    """The fixture ``worker``; see there."""

    def __call__(
        self,
        *arguments: str,
        app: str = "hermes_tasks",
        env: dict[str, str] | None = None,
        wait: bool = True,
    ) -> WorkerProcess: ...


@pytest.fixture
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts worker processes, and leaves nothing of them at the end.

    ``worker("-P", "threads", "-c", "4", env={"HONCHO_URL": …})`` runs ``celery -A hermes_tasks
    worker -P threads -c 4`` against ``settings`` (when the test uses it) and returns a
    ``WorkerProcess`` that is ready. Node names are unique; the log is ``.log``. What a call that
    was given up may have written is written again soon, or every takeover would take 45 seconds.
    """
    started: list[WorkerProcess] = []
    base = {"HERMES_TASKS_TIMEOUT_CEILING": "4", "HERMES_TASKS_LANDING_SECONDS": "1"}
    if "settings" in request.fixturenames:
        settings: Settings = request.getfixturevalue("settings")
        base |= {
            "HERMES_TASKS_BROKER_URL": settings.broker_url,
            "HERMES_TASKS_PREFIX": settings.prefix,
        }

    def start(
        *arguments: str,
        app: str = "hermes_tasks",
        env: dict[str, str] | None = None,
        wait: bool = True,
    ) -> WorkerProcess:
        number = len(started)
        names = [] if "-n" in arguments else ["-n", f"w{number}-{uuid.uuid4().hex[:6]}@%h"]
        process = WorkerProcess(
            [*arguments, *names],
            env=base | (env or {}),
            log=tmp_path / f"worker-{number}.log",
            app=app,
        )
        started.append(process)
        process.launch()
        if wait:
            process.wait_ready()
        return process

    yield start
    for process in started:
        process.close()


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for 127.0.0.1 that signs itself."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hermes-tasks tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Tls(directory / "server.crt", directory / "server.key", directory / "server.crt")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files
