"""Dashboard and alerts ask for metrics that exist, by labels and values that they have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hermes_tasks.gate import State
from hermes_tasks.ops.metrics import MAINTENANCE, OTHER, REASONS, series

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
RULES_TEST = DEPLOY / "prometheus" / "rules_test.yml"
DASHBOARD = DEPLOY / "grafana" / "hermes-tasks.json"
SCALER = DEPLOY / "kubernetes" / "scaledobject.yaml"
GUIDE = DEPLOY.parent / "docs" / "how-to" / "monitor.md"

SERIES = {name: set(labels) for name, labels in series()}
#: Labels that Prometheus adds to what it scrapes.
SCRAPED = {"job", "instance"}
VALUES = {
    ("hermes_tasks_lag_seconds", "rank"): {"p50", "p95", "p99", "longest"},
    ("hermes_tasks_workers", "state"): {"consuming", "idle", "silent"},
    ("hermes_tasks_sessions", "state"): {"ready", "leased", "sleeping", "held", "paused"},
    ("hermes_tasks_gates", "state"): {*State, MAINTENANCE},
    ("hermes_tasks_gate_state", "state"): {*State, MAINTENANCE},
    ("hermes_tasks_turns_given_up_total", "reason"): {*REASONS, OTHER},
    ("hermes_tasks_hook_calls_lost_total", "how"): {"failed", "timeout", "dropped"},
}

_SELECTOR = re.compile(r"\b(hermes_tasks_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    return found


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in found["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard and of the scaler, and where it stands."""
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for trigger in yaml.safe_load(SCALER.read_text(encoding="utf-8"))["spec"]["triggers"]:
        yield SCALER.name, trigger["metadata"]["query"]


def expressions() -> Iterator[tuple[str, str]]:
    """Those, those of the alerts, and what the guide names."""
    yield from queries()
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for selector in re.findall(r"`(hermes_tasks_[^`]+)`", GUIDE.read_text(encoding="utf-8")):
        yield GUIDE.name, selector.removesuffix(" 0")


def test_every_query_asks_for_what_is_there() -> None:
    for where, expression in expressions():
        selectors = _SELECTOR.findall(expression)
        assert selectors, where
        labels = {"le"} | SCRAPED
        for name, matchers in selectors:
            assert name in SERIES, f"{where}: there is no {name}"
            labels |= SERIES[name]
            for label, value in _MATCHER.findall(matchers):
                assert label in SERIES[name] | SCRAPED, f"{where}: {name} has no {label}"
                known = VALUES.get((name, label))
                if known is not None:
                    assert set(value.split("|")) <= known, f"{where}: {name} {label}={value}"
        for grouped in _GROUPING.findall(expression):
            assert set(filter(None, re.split(r"[,\s]+", grouped))) <= labels, where


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for panel in panels() for name in _SELECTOR.findall(json.dumps(panel))}
    names = {name for name, _ in shown}
    missing = {
        name
        for name in SERIES
        if name not in names
        and not (name.endswith(("_sum", "_count")) and name.rpartition("_")[0] + "_bucket" in names)
    }
    assert not missing


def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_do() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert set(rule["annotations"]) == {"summary", "description", "do"}, rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, rule["alert"]


def test_every_alert_is_seen_to_come_and_to_stay_away() -> None:
    tests = yaml.safe_load(RULES_TEST.read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_prometheus_takes_the_alerts(promtool: str) -> None:
    for command in (["check", "rules", RULES.name], ["test", "rules", RULES_TEST.name]):
        done = subprocess.run(
            [promtool, *command], cwd=RULES.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_queries_of_dashboard_and_scaler(
    promtool: str, tmp_path: Path
) -> None:
    asked = [
        re.sub(r"\$(instance|gate)", ".*", query).replace("$__rate_interval", "1m")
        for _, query in queries()
    ]
    recorded = [{"record": f"q{number}", "expr": query} for number, query in enumerate(asked)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = subprocess.run(
        [promtool, "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(dashboard["panels"]))) == variables
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, f"{panel['title']} stands on another panel"
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${source}"


def test_every_reason_that_scripts_and_tasks_give_has_a_name_here() -> None:
    code = Path(__file__).parents[2] / "hermes_tasks"
    given = {
        reason
        for path in (*code.rglob("*.lua"), *code.rglob("*.py"))
        for call in re.findall(r"\bbury\(([^\n]*)", path.read_text(encoding="utf-8"))
        for reason in re.findall(r"""['"]([a-z_]{3,})['"]""", call)
    }
    assert given >= {"overflow", "poison", "attempts"}
    assert given <= set(REASONS)
