"""The local servers that `up`, `demo` and every other test stand on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from hermes_tasks.errors import BrokerUnavailable, ConfigurationError
from hermes_tasks.testing.server_config import Tls
from hermes_tasks.testing.servers import EmbeddedValkey, RedisServer, Server


def test_a_killed_server_comes_back_on_its_port_with_what_it_accepted(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    url = server.url
    with server.client() as client:
        client.set("turn", "kept")

    server.restart()

    assert server.url == url
    with server.client() as client:
        assert client.get("turn") == b"kept"


def test_a_second_server_on_the_same_port_is_refused_in_one_line(
    make_server: Callable[..., Server],
) -> None:
    port = make_server().port
    with pytest.raises(BrokerUnavailable, match=rf"^port {port} of 127\.0\.0\.1 is in use"):
        make_server(port=port)


def test_a_second_server_on_the_same_directory_is_refused_and_names_the_first(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    pid = make_server(data_dir=tmp_path).pid
    with pytest.raises(BrokerUnavailable, match=rf"is in use by process {pid}$"):
        make_server(data_dir=tmp_path)


def test_a_directory_is_free_again_when_its_server_was_killed(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    make_server(data_dir=tmp_path).kill()
    assert make_server(data_dir=tmp_path).is_running


@pytest.mark.parametrize("password", ["plain", "p@ss/w:rd?", "ünïcode"])
def test_a_password_is_asked_for_and_stands_in_the_url(
    make_server: Callable[..., Server], password: str
) -> None:
    server = make_server(password=password)
    with server.client() as client:
        assert client.ping()
    with (
        redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_an_acl_user_may_do_what_its_rules_say_and_no_more(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(user="app", password="s3cret", acl="~{hermes}* +@all")
    with server.client() as client:
        client.set("{hermes}:stats", 1)
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("other", 1)


def test_a_tls_server_answers_those_who_trust_its_authority(
    make_server: Callable[..., Server], server_type: type[Server], tls_files: Tls
) -> None:
    if not server_type.speaks_tls:
        with pytest.raises(ConfigurationError, match="without TLS"):
            make_server(tls=tls_files)
        return
    with make_server(tls=tls_files).client() as client:
        assert client.ping()


def test_a_wrong_configuration_line_is_told_with_the_server_s_own_words(
    make_server: Callable[..., Server],
) -> None:
    with pytest.raises(BrokerUnavailable, match="Bad directive"):
        make_server(config={"no-such-option": 1})


def test_a_paused_server_keeps_its_connections_and_answers_when_it_goes_on(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    with server.client(socket_timeout=0.2, retry=None) as client:
        client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_a_missing_redis_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigurationError, match="redis-server is not on the PATH"):
        RedisServer()


def test_a_temporary_directory_goes_with_its_server() -> None:
    with EmbeddedValkey() as server:
        directory = server.data_dir
        assert directory.is_dir()
    assert not directory.exists()


def test_a_server_outlives_a_ctrl_c_meant_for_its_owner(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    assert os.getpgid(server.pid) != os.getpgrp()
    server.stop(timeout=5)
    assert not server.is_running


def test_stop_ends_a_paused_server(make_server: Callable[..., Server]) -> None:
    server = make_server()
    pid = server.pid
    server.pause()
    server.stop(timeout=5)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
