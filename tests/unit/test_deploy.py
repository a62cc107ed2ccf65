"""The files in ``deploy/``: held against schemas and our own code, as no engine runs here."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hermes_tasks.cli import main
from hermes_tasks.config import Settings, environment_variable
from hermes_tasks.ops.metrics import METRICS
from tests.compose import new_environment, read_compose

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())

SETTLE_SECONDS = 10.0
"""What a worker needs after its last call, at most, to say what became of it and to go."""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return new_environment("http://honcho:8000")


@pytest.fixture(scope="module")
def compose(environment: dict[str, str]) -> dict[str, Any]:
    return read_compose(environment)


def manifests() -> Iterator[dict[str, Any]]:
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if document["kind"] != "Kustomization":
                yield document


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in manifests():
        if "template" in document.get("spec", {}):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def commands() -> Iterator[list[str]]:
    """Every command line of ours in `deploy/`, the compose file and the Dockerfile."""
    for _, pod in pods():
        for container in pod["containers"]:
            for probe in ("livenessProbe", "readinessProbe"):
                yield container.get(probe, {}).get("exec", {}).get("command", [])
            yield container.get("args", [])
    for unit in UNITS:
        for line in re.findall(r"/opt/hermes-tasks/bin/([^;|&]+)", unit.read_text("utf-8")):
            yield line.split()
    services = yaml.safe_load((PROJECT / "docker-compose.yml").read_text("utf-8"))["services"]
    for service in services.values():
        for line in (service.get("command", ""), service.get("healthcheck", {}).get("test", "")):
            yield (
                line.split() if isinstance(line, str) else [word for word in line if word != "CMD"]
            )


# -- what they say is right --------------------------------------------------------------------


def test_the_compose_file_is_one_and_an_env_of_ours_is_all_that_it_needs(
    compose: dict[str, Any],
) -> None:
    assert compose["services"].keys() == {
        *("redis", "worker", "flower", "exporter"),
        *("prometheus", "grafana"),
    }
    assert compose["services"]["grafana"]["profiles"] == ["monitoring"]
    for service in compose["services"].values():
        # Nothing is reachable from elsewhere.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_every_manifest_is_what_kubernetes_takes() -> None:
    for document in manifests():
        if document["apiVersion"].startswith("keda.sh/"):
            continue  # not of Kubernetes itself
        kubernetes_validate.validate(document, "1.33", strict=True)
    (kustomization,) = yaml.safe_load_all(
        (DEPLOY / "kubernetes" / "kustomization.yaml").read_text(encoding="utf-8")
    )
    files = {file.name for file in (DEPLOY / "kubernetes").iterdir()}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml", "scaledobject.yaml"}


def test_nothing_runs_as_root_or_may_write_where_it_need_not(compose: dict[str, Any]) -> None:
    for _, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    for name in ("redis", "worker", "flower", "exporter"):
        assert compose["services"][name]["read_only"] is True
        assert compose["services"][name]["cap_drop"] == ["ALL"]
    assert re.findall(r"^USER (\w+)$", dockerfile(), re.MULTILINE) == ["10001"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_every_unit_is_what_systemd_takes(tmp_path: Path) -> None:
    for unit in UNITS:
        # Where there is neither our user nor our program yet.
        text = re.sub(r"/opt/hermes-tasks/bin/[a-z-]+", "/bin/true", unit.read_text("utf-8"))
        (tmp_path / unit.name).write_text(text.replace("User=hermes-tasks", "User=daemon"))
    result = subprocess.run(
        ["systemd-analyze", "verify", *(tmp_path / unit.name for unit in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


# -- what they say of us is so -----------------------------------------------------------------


def test_every_command_is_there_and_takes_its_options() -> None:
    told = set()
    for words in commands():
        if words[:1] == ["hermes-tasks"]:
            command = main.commands[words[1]]
            known = {name for parameter in command.params for name in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known, words
            told.add(words[1])
        elif words[:1] == ["celery"]:
            assert words[1:3] == ["-A", "hermes_tasks"]
            assert words[3] in ("worker", "flower")
            told.add(words[3])
    assert told == {"worker", "flower", "exporter", "health"}


def test_every_setting_is_one(compose: dict[str, Any]) -> None:
    known = {environment_variable(name) for name in Settings.model_fields}
    given = {
        name for service in compose["services"].values() for name in service.get("environment", {})
    } | {
        variable["name"]
        for _, pod in pods()
        for container in pod["containers"]
        for variable in container.get("env", [])
    }
    assert {name for name in given if name.startswith(("HERMES_TASKS_", "HONCHO_"))} <= known


def test_every_setting_of_a_worker_reaches_it_and_whoever_shows_what_it_does() -> None:
    of_gateways = {"flush_timeout", "outbox_dir", "outbox_rows", "outbox_sync"}
    of_a_part = {"broker_url", "data_dir", "honcho_url", "honcho_api_key", "encryption_keys"}
    settings = Settings.model_fields.keys() - of_gateways - of_a_part
    given = {environment_variable(name): f"value-of-{name}" for name in settings}
    services = read_compose(new_environment("http://honcho:8000") | given)["services"]
    for name in ("worker", "flower", "exporter"):
        assert given.items() <= services[name]["environment"].items()


def test_a_worker_that_is_told_to_stop_has_time_for_what_it_writes(
    compose: dict[str, Any],
) -> None:
    celeryconfig: dict[str, Any] = {}
    exec((PROJECT / "celeryconfig.py").read_text(encoding="utf-8"), celeryconfig)
    needed = SETTLE_SECONDS + max(
        celeryconfig["worker_soft_shutdown_timeout"],
        Settings.model_fields["timeout_ceiling"].default,
    )
    unit = (DEPLOY / "systemd" / "hermes-tasks-worker.service").read_text(encoding="utf-8")
    given = {
        "compose": int(compose["services"]["worker"]["stop_grace_period"].removesuffix("s")),
        "systemd": int(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0]),
        "kubernetes": dict(pods())["worker"]["terminationGracePeriodSeconds"],
    }
    assert all(seconds >= needed for seconds in given.values()), (needed, given)


def test_the_image_copies_what_is_there_and_installs_extras_that_are() -> None:
    ignored = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line]
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile(), re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (PROJECT / source).exists(), source
            assert f"!{source}" in ignored, f"{source} does not reach the build"
    assert not any(fnmatch(".env", line.removeprefix("!")) for line in ignored if line[0] == "!")
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", dockerfile())
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(extras.split(",")) <= pyproject["project"]["optional-dependencies"].keys()


def dockerfile() -> str:
    return (PROJECT / "Dockerfile").read_text(encoding="utf-8")


# -- Redis and its users -----------------------------------------------------------------------


def test_every_user_gets_a_password_of_its_own(
    compose: dict[str, Any], environment: dict[str, str]
) -> None:
    names = {f"HERMES_{user}_PASSWORD" for user in ("GATEWAY", "WORKER", "VIEWER", "FLOWER")}
    start = (DEPLOY / "redis" / "start.sh").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(HERMES_\w+_PASSWORD):", start)) == names
    assert names <= compose["services"]["redis"]["environment"].keys()
    passwords = [environment[name] for name in names]
    # Letters and digits: they become parts of URLs.
    assert len(set(passwords)) == 4
    assert all(re.fullmatch(r"[a-z0-9]{48}", password) for password in passwords)


def test_everyone_connects_as_a_user_that_there_is(compose: dict[str, Any]) -> None:
    acl = (DEPLOY / "redis" / "users.acl").read_text(encoding="utf-8")
    urls = [
        service["environment"]["HERMES_TASKS_BROKER_URL"]
        for service in compose["services"].values()
        if "HERMES_TASKS_BROKER_URL" in service.get("environment", {})
    ] + [
        variable["value"]
        for _, pod in pods()
        for container in pod["containers"]
        for variable in container.get("env", [])
        if variable["name"] == "HERMES_TASKS_BROKER_URL"
    ]
    users = re.findall(r"redis://([\w-]+):", " ".join(urls))
    assert len(users) == len(urls) == 6
    assert set(users) <= set(re.findall(r"^user (\S+) on", acl, re.MULTILINE))


# -- Prometheus --------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_takes_its_configuration_and_the_scaler_s_query(tmp_path: Path) -> None:
    (scaled,) = (document for document in manifests() if document["kind"] == "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    assert scaled["spec"]["scaleTargetRef"]["name"] in dict(pods())
    rule = {"record": "scale", "expr": trigger["metadata"]["query"]}
    rules = tmp_path / "scale.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "scale", "rules": [rule]}]}))
    for call in (
        ["check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")],
        ["check", "rules", str(rules)],
    ):
        result = subprocess.run(
            ["promtool", *call], capture_output=True, text=True, timeout=30, check=False
        )
        assert result.returncode == 0, result.stderr


def test_the_scaler_asks_for_metrics_that_there_are() -> None:
    (scaled,) = (document for document in manifests() if document["kind"] == "ScaledObject")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert set(re.findall(r"hermes_tasks_\w+", query)) <= {metric.name for metric in METRICS}
