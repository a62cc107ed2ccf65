"""Every number that two of the command line, Flower and Prometheus show is the same in both."""

from __future__ import annotations

import dataclasses
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hermes_tasks.gate import Policy
from hermes_tasks.ops import Overview, read_overview
from hermes_tasks.ops.exporter import OverviewCollector, families
from hermes_tasks.ops.view import View
from tests.integration.commands import Commands
from tests.integration.flower.conftest import Site

SECONDS = 30.0
"""How much older what grows with time may be in one answer than in the other."""

#: What grows or shrinks with time, while nothing happens.
MOVING = ("now", "lag", "seen")
MOVING_METRICS = ("hermes_tasks_lag_seconds", "hermes_tasks_gate_pause_seconds")

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def test_the_command_line_flower_and_prometheus_agree(site: Site) -> None:
    told = Commands(site.deployment.settings).json("status")
    del told["problems"]
    shown = site.flower.json("/api/sessions")["overview"]
    scraped, flowers = scrape(site), values(site.flower.answer("/metrics")[1])

    # Flower and the command line: the same fields, and the same in them.
    ours = {field.name for field in dataclasses.fields(Overview)}
    assert set(shown) == set(told) == ours
    assert_same(shown, told, "overview")

    # Prometheus: each metric as the table reads it from what the command line told.
    expected = samples(families(rebuilt(Overview, told)))
    assert set(scraped) == set(expected)
    for name, value in expected.items():
        moving = name[0] in MOVING_METRICS
        assert scraped[name] == pytest.approx(value, abs=SECONDS if moving else 1e-9), name

    # And what Flower tells Prometheus is that, beside Flower's own.
    assert any(name.startswith("flower_") for name, _ in flowers)
    ours_of_flower = {key: value for key, value in flowers.items() if key in expected}
    assert set(ours_of_flower) == set(expected)
    for name, value in ours_of_flower.items():
        moving = name[0] in MOVING_METRICS
        assert value == pytest.approx(scraped[name], abs=SECONDS if moving else 1e-9), name
    # There was something to agree about.
    assert len([value for value in expected.values() if value]) > 40


def scrape(site: Site) -> Values:
    settings = site.deployment.settings
    view = View(site.deployment.app, settings.safe_broker_url)
    policy = Policy.from_settings(settings)
    registry = CollectorRegistry()
    registry.register(
        OverviewCollector(lambda: view.ask(lambda store: read_overview(store, policy)))
    )
    text = generate_latest(registry).decode()
    view.close()
    return values(text)


def values(text: str) -> Values:
    return samples(text_string_to_metric_families(text))


def samples(found: Any) -> Values:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in found
        for sample in family.samples
    }


def assert_same(one: Any, other: Any, where: str) -> None:
    """The same numbers at the same places; those that move with time, nearly."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_same(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}.{number}")
    elif isinstance(one, float) and any(f".{name}" in where for name in MOVING):
        assert one == pytest.approx(other, abs=SECONDS), where
    else:
        assert one == other, where


def rebuilt(kind: Any, data: Any) -> Any:
    """A dataclass from what ``asdict`` and JSON made of it."""
    make = kind
    if data is None:
        return None
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (kind,) = (one for one in arguments if one is not type(None))
        return rebuilt(kind, data)
    if origin is tuple:
        return tuple(rebuilt(arguments[0], one) for one in data)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return make(**{name: rebuilt(hints[name], value) for name, value in data.items()})
    return data if origin is dict else kind(data)
