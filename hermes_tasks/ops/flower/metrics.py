"""Flower's ``/metrics``: its own, which tell of tasks, and those of the deployment."""

from __future__ import annotations

from flower.views.monitor import Metrics as FlowerMetrics

from hermes_tasks.errors import BrokerUnavailable
from hermes_tasks.ops.exporter import exposition
from hermes_tasks.ops.flower.views import Asking
from hermes_tasks.ops.overview import read_overview


class Metrics(FlowerMetrics, Asking):
    """As open to everybody as Flower's own: it asks for no login here."""

    async def get(self) -> None:
        policy = self.policy
        try:
            overview = await self.ask(("numbers",), lambda store: read_overview(store, policy))
        except BrokerUnavailable:
            overview = None
        await super().get()
        self.write(exposition(overview))
