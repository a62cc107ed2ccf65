"""The commands as an operator meets them: one clear line, the right exit status, no traceback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from hermes_tasks.cli import main
from hermes_tasks.config import Settings
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import clean_environment

ONE_SERVER = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


def run(*command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=clean_environment() | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def hermes_tasks(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run(str(Path(sys.executable).with_name("hermes-tasks")), *arguments, env=env)


def celery(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "celery", "-A", "hermes_tasks", *arguments, env=env)


def assert_one_line(result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in line


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A good conversation of one line."""
    path = tmp_path / "good.jsonl"
    path.write_text('{"session": "s", "peer": "igor", "content": "hi"}\n', encoding="utf-8")
    return path


def test_help_names_every_command_and_every_exit_status() -> None:
    result = hermes_tasks("--help")
    assert result.returncode == 0
    for word in ("config", "Exit status", "0  done"):
        assert word in result.stdout
    commands = ("status", "sessions", "gate", "dead", "check", "health", "replay", "up", "demo")
    for command in commands:
        assert f"  {command} " in result.stdout
        assert "Exit status" in CliRunner().invoke(main, [command, "--help"]).stdout


def test_config_lists_every_setting_with_its_source_and_no_secret() -> None:
    env = {
        "HERMES_TASKS_BROKER_URL": "redis://u:s3cret@h:1/0",
        "HONCHO_API_KEY": "s3cret",
        "HERMES_TASKS_QUEUE_LIMIT": "7",
    }
    text = hermes_tasks("config", **env)
    rows = {
        row["variable"]: row for row in json.loads(hermes_tasks("config", "--json", **env).stdout)
    }

    assert text.returncode == 0
    assert "s3cret" not in text.stdout + repr(rows)
    assert len(rows) == len(Settings.model_fields)
    assert all(variable in text.stdout for variable in rows)
    assert rows["HERMES_TASKS_QUEUE_LIMIT"]["value"] == 7
    assert rows["HERMES_TASKS_QUEUE_LIMIT"]["source"] == "environment"
    assert rows["HERMES_TASKS_BACKLOG_LIMIT"]["source"] == "default"
    assert rows["HERMES_TASKS_BROKER_URL"]["value"] == "redis://u:***@h:1/0"


@pytest.mark.parametrize("command", [("config",), ("up",), ("replay", "x.jsonl"), ("demo",)])
def test_a_setting_that_cannot_be_used_is_named(command: tuple[str, ...]) -> None:
    result = hermes_tasks(*command, HERMES_TASKS_QUEUE_LIMIT="many")
    assert_one_line(result, 2, "HERMES_TASKS_QUEUE_LIMIT", "valid integer")


def test_no_redis_is_one_line(lines: Path) -> None:
    result = hermes_tasks("replay", str(lines), HERMES_TASKS_BROKER_URL="redis://:pw@127.0.0.1:1/0")
    assert_one_line(result, 3, "redis://:***@127.0.0.1:1/0", "Connection refused")


@ONE_SERVER
@pytest.mark.parametrize(
    ("credentials", "what"),
    [("", "Authentication required"), (":wr0ng@", "invalid username-password pair")],
)
def test_a_wrong_password_is_one_line_without_it(
    make_server: Callable[..., Server], lines: Path, credentials: str, what: str
) -> None:
    server = make_server(password="right")
    url = f"redis://{credentials}127.0.0.1:{server.port}/0"
    result = hermes_tasks("replay", str(lines), HERMES_TASKS_BROKER_URL=url)
    assert_one_line(result, 3, what)
    assert "wr0ng" not in result.stderr


@ONE_SERVER
def test_a_state_db_that_is_not_one_is_one_line(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("not a database", encoding="utf-8")
    result = hermes_tasks("replay", str(path), HERMES_TASKS_BROKER_URL=settings.broker_url)
    assert_one_line(result, 2, str(path), "not a Hermes state.db")


@ONE_SERVER
def test_a_line_that_is_not_json_is_named(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\nsecret words\n", encoding="utf-8")
    result = hermes_tasks("replay", str(path), HERMES_TASKS_BROKER_URL=settings.broker_url)
    assert_one_line(result, 2, f"{path}, line 2: not JSON")
    assert "secret" not in result.stderr + result.stdout


def test_a_source_that_is_not_there_is_one_line() -> None:
    assert_one_line(hermes_tasks("replay", "/nowhere.jsonl"), 2, "No such file")


@ONE_SERVER
def test_a_replay_that_runs_out_of_time_says_what_becomes_of_its_turns(
    settings: Settings, lines: Path
) -> None:
    env = {
        "HERMES_TASKS_BROKER_URL": settings.broker_url,
        "HERMES_TASKS_PREFIX": settings.prefix,
    }
    result = hermes_tasks("replay", str(lines), "--timeout", "0.2", **env)
    assert_one_line(result, 1, "1 of 1 turns are not written", "stay queued")


@ONE_SERVER
def test_a_replay_that_is_interrupted_says_how_to_go_on(settings: Settings, lines: Path) -> None:
    # No worker runs, so it waits.
    replay = subprocess.Popen(
        [Path(sys.executable).with_name("hermes-tasks"), "replay", lines],
        env=clean_environment()
        | {
            "HERMES_TASKS_BROKER_URL": settings.broker_url,
            "HERMES_TASKS_PREFIX": settings.prefix,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with redis.Redis.from_url(settings.broker_url) as client:
        run_queue = f"{{{settings.prefix}}}.run"
        wait_until(lambda: client.exists(run_queue), 20, "a turn to be queued")
    replay.send_signal(signal.SIGINT)
    output, errors = replay.communicate(timeout=20)

    assert replay.returncode == 130
    assert "run again to send the rest" in errors
    assert "Traceback" not in errors
    assert "turns" in output


@pytest.mark.parametrize("arguments", [("replay",), ("replay", "a", "b"), ("nonsense",)])
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    result = hermes_tasks(*arguments)
    assert result.returncode == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr


@ONE_SERVER
def test_a_worker_without_honcho_url_says_what_to_set_and_ends(server: Server) -> None:
    result = celery("worker", HERMES_TASKS_BROKER_URL=server.url)
    assert_one_line(result, 2, "HONCHO_URL is not set")


def test_a_worker_with_a_wrong_setting_names_it_and_ends() -> None:
    result = celery("worker", HERMES_TASKS_LEASE_SECONDS="soon")
    assert_one_line(result, 2, "HERMES_TASKS_LEASE_SECONDS")


def test_up_without_honcho_url_starts_nothing(tmp_path: Path) -> None:
    result = hermes_tasks("up", "--data-dir", str(tmp_path / "data"))
    assert_one_line(result, 2, "HONCHO_URL is not set")
    assert not (tmp_path / "data").exists()


def test_up_refuses_to_stand_in_for_a_broker_elsewhere() -> None:
    result = hermes_tasks(
        "up",
        HONCHO_URL="http://127.0.0.1:8000",
        HERMES_TASKS_BROKER_URL="redis://:s3cret@redis.example/0",
    )
    assert_one_line(result, 2, "redis://:***@redis.example/0", "unset it")


@ONE_SERVER
@pytest.mark.parametrize("where", ["/dev/full", "&-"])
def test_output_that_nobody_can_take_is_no_traceback(settings: Settings, where: str) -> None:
    program = Path(sys.executable).with_name("hermes-tasks")
    for arguments in ("sessions list", "status --json"):
        result = run(
            *("sh", "-c", f"{program} {arguments} >{where}"),
            env={"HERMES_TASKS_BROKER_URL": settings.broker_url},
        )
        assert result.stderr in ("", "error: [Errno 28] No space left on device\n")
