"""The app's settings in layers, and which transport each broker URL leads to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.backends.base import DisabledBackend

from hermes_tasks.app import celeryconfig, make_app
from hermes_tasks.config import Settings
from hermes_tasks.errors import ConfigurationError
from hermes_tasks.transport import SentinelTransport, Transport

SECRET = "swordfish"


@pytest.fixture
def write_celeryconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Writes a ``celeryconfig.py`` into the current directory, which is a test's own."""
    monkeypatch.chdir(tmp_path)
    # An installed one, such as this repository's, would hide that of the directory.
    monkeypatch.setattr(
        sys, "path", [p for p in sys.path if not (Path(p) / "celeryconfig.py").exists()]
    )
    monkeypatch.delitem(sys.modules, "celeryconfig", raising=False)

    def write(text: str) -> None:
        (tmp_path / "celeryconfig.py").write_text(text, encoding="utf-8")

    yield write
    sys.modules.pop("celeryconfig", None)


def test_a_celeryconfig_overrides_our_defaults_and_adds_its_own(
    write_celeryconfig: Callable[[str], None],
) -> None:
    write_celeryconfig("worker_prefetch_multiplier = 7\nworker_pool = 'threads'\n")
    app = make_app(Settings(), celeryconfig(), set_as_current=False)
    assert app.conf.worker_prefetch_multiplier == 7
    assert app.conf.worker_pool == "threads"
    assert app.conf.worker_consumer == "hermes_tasks.worker:Consumer"


def test_transport_options_of_a_celeryconfig_are_merged_into_ours(
    write_celeryconfig: Callable[[str], None],
) -> None:
    write_celeryconfig(
        "broker_transport_options = {'session_max_attempts': 9, 'socket_timeout': 2}"
    )
    options = make_app(Settings(), celeryconfig(), set_as_current=False).conf[
        "broker_transport_options"
    ]
    assert options["session_max_attempts"] == 9
    assert options["socket_timeout"] == 2
    assert options["session_waiting_limit"] == 64


def test_the_environment_has_the_last_word(
    write_celeryconfig: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_celeryconfig(
        "broker_url = 'redis://elsewhere'\n"
        "broker_transport_options = "
        "{'session_lease': 1, 'session_waiting_limit': 2, 'client_name': 'c'}"
    )
    monkeypatch.setenv("HERMES_TASKS_BROKER_URL", "redis://here/0")
    monkeypatch.setenv("HERMES_TASKS_LEASE_SECONDS", "20")
    monkeypatch.setenv("HERMES_TASKS_BROKER_OPTIONS", '{"client_name": "e"}')
    app = make_app(Settings.load(), celeryconfig(), set_as_current=False)
    options = app.conf.broker_transport_options
    assert app.conf.broker_url == "redis://here/0"
    assert options["session_lease"] == 20
    assert options["session_waiting_limit"] == 2
    assert options["client_name"] == "e"


def test_a_call_may_land_some_time_after_its_longest() -> None:
    settings = Settings(timeout_ceiling=20, landing_seconds=5)
    app = make_app(settings, set_as_current=False)
    assert app.conf.broker_transport_options["session_landing"] == 25


def test_without_a_celeryconfig_the_defaults_stand(
    write_celeryconfig: Callable[[str], None],
) -> None:
    assert celeryconfig() == {}


def test_a_celeryconfig_that_cannot_be_imported_is_not_passed_over(
    write_celeryconfig: Callable[[str], None],
) -> None:
    write_celeryconfig("import no_such_module_anywhere")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        celeryconfig()


@pytest.mark.parametrize("text", ["{", '["a"]', f'{{"password": "{SECRET}"'])
def test_broker_options_that_are_no_json_object_are_refused_without_being_shown(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_TASKS_BROKER_OPTIONS", text)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert str(caught.value).startswith("HERMES_TASKS_BROKER_OPTIONS: must be a JSON object")
    assert SECRET not in str(caught.value)


def test_secrets_among_the_broker_options_are_not_listed() -> None:
    options = {"master_name": "m", "sentinel_kwargs": {"password": SECRET, "socket_timeout": 1}}
    settings = Settings(broker_options=options)
    row = next(r for r in settings.rows() if r.variable == "HERMES_TASKS_BROKER_OPTIONS")
    assert SECRET not in f"{row}{settings!r}"
    assert row.value == (
        '{"master_name": "m", "sentinel_kwargs": {"password": "***", "socket_timeout": 1}}'
    )


def test_sentinel_without_a_master_name_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match=r"HERMES_TASKS_BROKER_OPTIONS='.*master_name"):
        make_app(Settings(broker_url="sentinel://127.0.0.1"), set_as_current=False)


@pytest.mark.parametrize(
    "url",
    ["redis://h/0?unknown=1", "redis://h/0?socket_timeout=5", "rediss://h/0?ssl_cert_reqs=maybe"],
)
def test_an_option_of_the_broker_url_that_cannot_be_used_is_one_line(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^HERMES_TASKS_BROKER_URL .*option after"):
        make_app(Settings(broker_url=url), set_as_current=False)


def test_a_gateway_goes_to_its_own_broker_whatever_the_environment_says_for_celery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://another")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "of_another_application")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://another")
    settings = Settings(broker_url="redis://ours/0")
    gateway = make_app(settings, set_as_current=False, backend="disabled")
    assert isinstance(gateway.backend, DisabledBackend)
    assert gateway.connection_for_write().hostname == "ours"
    assert gateway.connection_for_read().hostname == "ours"
    # `celery -b` sets the variable.
    worker = make_app(settings, {}, set_as_current=False)
    assert worker.connection_for_read().hostname == "another"


URLS: dict[str, tuple[type[Any], str]] = {
    f"redis://:{SECRET}@h:1/3": (Transport, "redis://:**@h:1/3"),
    f"rediss://u:{SECRET}@h:1/3": (Transport, "rediss://u:**@h:1/3"),
    f"redis+socket://:{SECRET}@/tmp/s?virtual_host=3": (Transport, "redis+socket://:**@/tmp/s"),
    f"sentinel://:{SECRET}@h:1/3;sentinel://:{SECRET}@i:2/3": (
        SentinelTransport,
        "sentinel://:**@h:1/3",
    ),
}


@pytest.mark.parametrize("url", URLS)
def test_every_url_leads_to_the_ordered_transport_and_shows_its_scheme_but_no_password(
    url: str,
) -> None:
    kind, shown = URLS[url]
    settings = Settings(broker_url=url, broker_options={"master_name": "m"})
    with make_app(settings, set_as_current=False).connection_for_write() as connection:
        for each in (connection, connection.clone()):
            assert isinstance(each.transport, kind)
            assert each.as_uri() == shown


@pytest.mark.parametrize("url", URLS)
def test_what_a_retry_is_published_through_is_ordered_too(url: str) -> None:
    settings = Settings(broker_url=url, broker_options={"master_name": "m"})
    pool = make_app(settings, set_as_current=False).connection_for_write().Pool(limit=1)
    assert isinstance(pool.new().transport, URLS[url][0])


def test_a_connection_that_switches_to_its_next_url_stays_ordered() -> None:
    settings = Settings(
        broker_url="sentinel://h:1;sentinel://i:2", broker_options={"master_name": "m"}
    )
    with make_app(settings, set_as_current=False).connection_for_write() as connection:
        connection.maybe_switch_next()
        assert connection.hostname == "i"
        assert isinstance(connection.transport, SentinelTransport)


@pytest.mark.parametrize(
    ("url", "checked"),
    [("rediss://h", "CERT_REQUIRED"), ("rediss://h?ssl_cert_reqs=none", "CERT_NONE")],
)
def test_rediss_checks_the_server_unless_told_not_to(url: str, checked: str) -> None:
    app = make_app(Settings(broker_url=url), set_as_current=False)
    with app.connection_for_write() as connection:
        assert connection.transport.driver_type == "redis"
        assert connection.ssl["ssl_cert_reqs"].name == checked
    # Flower looks there.
    assert app.conf.broker_use_ssl["ssl_cert_reqs"].name == checked
