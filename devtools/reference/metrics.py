"""Every metric, from the table that the exporter is made of, and every alert in ``deploy/``."""

from __future__ import annotations

from pathlib import Path

import yaml

from devtools.reference import markdown
from hermes_tasks.ops.metrics import METRICS, UP, Metric

RULES = Path("deploy/prometheus/rules.yml")

_HEAD = f"""\
# Metrics

What `hermes-tasks exporter` and Flower's `/metrics` tell Prometheus: see [how to watch
it](../how-to/monitor.md). All of it comes from Redis, in one read for each scrape, so one exporter
serves a whole deployment, and the numbers are those of `hermes-tasks status`. No label names a
session, a user or a turn. Counters begin at 0 when Redis is new. Gauges are of the instant of the
scrape; what gateways and workers tell of themselves is some seconds older.

`{UP}` is 1, or 0 while Redis does not answer; then there is nothing else.

"""

_ALERTS = """
## Alerts

Those of `deploy/prometheus/rules.yml`. Critical: turns are lost or will be, or nobody writes them.
Warning: somebody should look today.

"""


def page() -> str:
    """The page ``reference/metrics.md``."""
    head = ("metric", "kind", "labels", "unit", "what it is")
    text = _HEAD + markdown.table(head, map(_row, METRICS)) + _ALERTS
    found = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    rules = [rule for group in found["groups"] for rule in group["rules"]]
    alerts = [
        (
            rule["alert"],
            rule["labels"]["severity"],
            markdown.code(" ".join(rule["expr"].split())),
            rule.get("for", ""),
        )
        for rule in rules
    ]
    return text + markdown.table(("alert", "severity", "when", "for"), alerts)


def _row(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(map(markdown.code, metric.labels))
    return markdown.code(metric.name), metric.kind, labels, metric.unit, metric.meaning
