"""The metrics of :mod:`.metrics` for Prometheus (extra ``metrics``).

One exporter serves a whole deployment: all numbers are in Redis, and a scrape is one read of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hermes_tasks.errors import BrokerUnavailable, ConfigurationError, MissingExtra
from hermes_tasks.ops.metrics import METRICS, UP, Metric
from hermes_tasks.transport.histogram import Histogram

try:
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtra("metrics need: pip install 'hermes-tasks[metrics]'") from error

if TYPE_CHECKING:
    from hermes_tasks.ops.overview import Overview

logger = logging.getLogger(__name__)


class OverviewCollector(Collector):
    """Reads a deployment whenever Prometheus asks.

    Args:
        read: one read of the deployment. While it raises
            :class:`~hermes_tasks.errors.BrokerUnavailable` there is ``hermes_tasks_up 0`` alone.
    """

    def __init__(self, read: Callable[[], Overview]) -> None:
        self._read = read
        self._is_up = True

    def collect(self) -> Iterator[Family]:
        """Everything, as it is now."""
        try:
            overview = self._read()
        except BrokerUnavailable as error:
            if self._is_up:
                logger.warning("%s; there are no metrics until it does", error)
            self._is_up = False
            yield from families(None)
            return
        if not self._is_up:
            logger.info("Redis answers again")
        self._is_up = True
        yield from families(overview)

    def describe(self) -> Iterator[Family]:
        """What there is, without a value: nothing is read when this is registered."""
        for metric in METRICS:
            yield _family(metric)
        yield _up()


class _Still(Collector):
    """What was read already."""

    def __init__(self, overview: Overview | None) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Family]:
        yield from families(self._overview)


def families(overview: Overview | None) -> Iterator[Family]:
    """All metrics of a deployment; ``None``: Redis does not answer."""
    if overview is not None:
        for metric in METRICS:
            yield _filled(metric, overview)
    yield _up(overview is not None)


def exposition(overview: Overview | None) -> bytes:
    """The same as text for Prometheus."""
    return generate_latest(_Still(overview))


def serve(read: Callable[[], Overview], host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve the metrics over HTTP, in threads of its own.

    Args:
        read: see :class:`OverviewCollector`.
        host: address to listen on.
        port: TCP port; 0: a free one.

    Returns:
        The port, and what ends it.

    Raises:
        ConfigurationError: it cannot listen there.
    """
    registry = CollectorRegistry()
    registry.register(OverviewCollector(read))
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {why}") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop


def _filled(metric: Metric, overview: Overview) -> Family:
    family = _family(metric)
    for labels, value in metric.read(overview):
        if isinstance(value, Histogram):
            assert isinstance(family, HistogramMetricFamily)
            family.add_metric(labels, list(_buckets(value)), value.total)
        else:
            assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
            family.add_metric(labels, float(value))
    return family


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    if metric.kind == "histogram":
        return HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    return GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)


def _up(value: bool = False) -> GaugeMetricFamily:
    return GaugeMetricFamily(UP, "Whether Redis answers: 1 or 0.", value=float(value))


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """Upper bounds with how many were not above them."""
    so_far = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        so_far += count
        yield ("+Inf" if bound == float("inf") else f"{bound:g}"), so_far
