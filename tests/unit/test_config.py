"""Settings: where they come from, what is refused and how it is said, what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_tasks.config import Settings, environment_variable, redact_url
from hermes_tasks.errors import ConfigurationError


def test_defaults_are_those_of_the_documentation() -> None:
    settings = Settings()
    assert settings.broker_url == "redis://127.0.0.1:6379/0"
    assert (settings.queue_limit, settings.backlog_limit) == (64, 256)
    assert (settings.batch_turns, settings.batch_messages) == (50, 100)
    assert settings.lease_seconds == 15
    assert settings.prefix == "hermes"
    assert settings.honcho_url is None
    assert (settings.breaker_failures, settings.breaker_probe_seconds) == (3, 60)
    assert (settings.timeout_floor, settings.timeout_default, settings.timeout_ceiling) == (
        *(5, 30, 30),
    )
    assert (settings.timeout_headroom, settings.timeout_window, settings.timeout_warmup) == (
        *(3, 256, 10),
    )
    assert (settings.connect_seconds, settings.first_byte_seconds, settings.idle_seconds) == (
        *(10, 30, 10),
    )
    assert settings.first_byte_strict is False
    assert (settings.rate_limit, settings.rate_burst) == (None, 1)
    assert settings.retry_max_age == 24 * 3600


def test_the_environment_beats_defaults_and_arguments_beat_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HERMES_TASKS_QUEUE_LIMIT", "10")
    monkeypatch.setenv("HONCHO_URL", "http://honcho:8000/")
    assert Settings.load(queue_limit=None).queue_limit == 10
    assert Settings.load(queue_limit=5).queue_limit == 5
    assert Settings().honcho_url == "http://honcho:8000"


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONCHO_URL", "")
    monkeypatch.setenv("HERMES_TASKS_PREFIX", "")
    assert Settings().honcho_url is None
    assert Settings().prefix == "hermes"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HERMES_TASKS_QUEUE_LIMIT", "many"),
        ("HERMES_TASKS_QUEUE_LIMIT", "0"),
        ("HERMES_TASKS_BATCH_MESSAGES", "101"),
        ("HERMES_TASKS_LEASE_SECONDS", "0.5"),
        ("HERMES_TASKS_PREFIX", "a{b}"),
        ("HERMES_TASKS_BACKEND", "a:b"),
        ("HERMES_TASKS_BROKER_URL", "amqp://guest:s3cret@host//"),
        ("HERMES_TASKS_BROKER_URL", "redis://:s3cret/x@host:6379/0"),
        ("HERMES_TASKS_BREAKER_FAILURES", "0"),
        ("HERMES_TASKS_BREAKER_PROBE_SECONDS", "601"),
        ("HERMES_TASKS_TIMEOUT_CEILING", "nan"),
        ("HERMES_TASKS_TIMEOUT_DEFAULT", "31"),
        ("HERMES_TASKS_TIMEOUT_FLOOR", "31"),
        ("HERMES_TASKS_TIMEOUT_HEADROOM", "0.5"),
        ("HERMES_TASKS_TIMEOUT_WARMUP", "257"),
        ("HERMES_TASKS_FIRST_BYTE_SECONDS", "-1"),
        ("HERMES_TASKS_FIRST_BYTE_STRICT", "maybe"),
        ("HERMES_TASKS_IDLE_SECONDS", "nan"),
        ("HERMES_TASKS_RATE_LIMIT", "5/day"),
        ("HERMES_TASKS_RATE_LIMIT", "5/m"),
        ("HERMES_TASKS_RATE_LIMIT", "0/s"),
        ("HERMES_TASKS_RATE_LIMIT", "nan"),
        ("HERMES_TASKS_RATE_BURST", "0"),
        ("HERMES_TASKS_RETRY_MAX_AGE", "inf"),
        ("HERMES_TASKS_BROKER_URL", "redis://:s3cret@host:6379/zero"),
        ("HONCHO_URL", "honcho:8000"),
        ("HONCHO_URL", "http://host:99999"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_variable_and_quotes_no_secret(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert str(caught.value).startswith(f"{variable}: ")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in repr(caught.value) + repr(caught.value.__cause__)


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERMES_TASKS_QUEUE_LIMIT", "x")
    monkeypatch.setenv("HERMES_TASKS_PREFIX", "{")
    with pytest.raises(
        ConfigurationError, match=r"QUEUE_LIMIT: [^;]*; HERMES_TASKS_PREFIX: [^;]*$"
    ):
        Settings()


@pytest.mark.parametrize(
    ("said", "calls", "shown"),
    [
        ("5/s", 5.0, "5/s"),
        ("300/m", 5.0, "5/s"),
        (" 1000 / h ", 1000 / 3600, "0.277778/s"),
        ("0.5/s", 0.5, "0.5/s"),
        ("6/m", 0.1, "0.1/s"),
        ("7", 7.0, "7/s"),
        ("", None, None),
    ],
)
def test_a_rate_is_calls_a_second_minute_or_hour(
    monkeypatch: pytest.MonkeyPatch, said: str, calls: float | None, shown: str | None
) -> None:
    monkeypatch.setenv("HERMES_TASKS_RATE_LIMIT", said)
    assert Settings().rate_limit == (None if calls is None else pytest.approx(calls))
    rows = {row.variable: row.value for row in Settings().rows()}
    assert rows["HERMES_TASKS_RATE_LIMIT"] == shown


def test_times_that_are_not_set_follow_a_lower_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERMES_TASKS_TIMEOUT_CEILING", "2.5")
    settings = Settings()
    assert (settings.timeout_floor, settings.timeout_default) == (2.5, 2.5)


@pytest.mark.parametrize("name", ["FLOOR", "DEFAULT"])
def test_a_time_above_the_ceiling_names_both(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HERMES_TASKS_TIMEOUT_CEILING", "20")
    monkeypatch.setenv(f"HERMES_TASKS_TIMEOUT_{name}", "25")
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert str(caught.value) == (
        f"HERMES_TASKS_TIMEOUT_{name}: must not be above HERMES_TASKS_TIMEOUT_CEILING, 20 s"
    )


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="que_limit"):
        Settings.load(que_limit=1)


def test_secrets_are_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERMES_TASKS_BROKER_URL", "rediss://user:s3cret@host:6380/0")
    monkeypatch.setenv("HONCHO_API_KEY", "s3cret")
    monkeypatch.setenv("HONCHO_URL", "https://me:s3cret@host")
    settings = Settings()
    shown = repr(settings) + str(settings) + repr(settings.rows()) + settings.safe_broker_url
    assert "s3cret" not in shown
    assert "rediss://user:***@host:6380/0" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("redis://pw@h:1/0", "redis://***@h:1/0"),
        ("redis://u:p@ss/w@h:1/0", "redis://u:***@h:1/0"),
        ("sentinel://:a@h1:1;sentinel://:b@h2:2/0", "sentinel://:***@h1:1;sentinel://:***@h2:2/0"),
        ("redis://h/0?password=pw&db=1", "redis://h/0?password=***&db=1"),
        ("https://h/v3?api_key=pw", "https://h/v3?api_key=***"),
        ("redis+socket:///run/redis.sock", "redis+socket:///run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_no_secret_of_the_broker_options_is_shown() -> None:
    options = {
        "master_name": "mymaster",
        "sentinel_kwargs": {"password": "s3cret", "db": 1},
        "others": ["redis://:s3cret@h:1/0"],
    }
    settings = Settings(broker_options=options)
    shown = next(row.value for row in settings.rows() if "OPTIONS" in row.variable)
    assert "s3cret" not in str(shown)
    assert "mymaster" in str(shown)
    assert "redis://:***@h:1/0" in str(shown)


@given(st.text(min_size=8).filter(lambda password: ";" not in password))
def test_no_password_survives_redaction(password: str) -> None:
    url = f"redis://user:{password}@host:6379/0"
    assert f":{password}@" not in redact_url(url) or password == "*" * len(password)


def test_rows_name_each_setting_once_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERMES_TASKS_PREFIX", "other")
    rows = {row.variable: row for row in Settings.load(queue_limit=1).rows()}
    assert len(rows) == len(Settings.model_fields)
    assert rows["HERMES_TASKS_PREFIX"].source == "environment"
    assert rows["HERMES_TASKS_QUEUE_LIMIT"].source == "argument"
    assert rows["HONCHO_WORKSPACE_ID"].source == "default"
    assert all(row.description for row in rows.values())


def test_every_field_is_described_and_has_a_variable() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description
        assert environment_variable(name).startswith(("HERMES_TASKS_", "HONCHO_"))


def test_xdg_directories_are_respected_and_relative_ones_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Settings().data_dir == tmp_path / "hermes-tasks" / "broker"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert Settings().data_dir == Path.home() / ".local/share/hermes-tasks/broker"


def test_a_missing_honcho_url_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match=r"^HONCHO_URL is not set: set it to"):
        Settings().require_honcho_url()
