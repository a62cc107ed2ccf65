"""The same order, faults included, on the pools other than prefork."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes_tasks.testing.servers import Server
from tests.integration.order.app import make_app
from tests.integration.order.fleet import SLOTS, Fleet
from tests.integration.order.load import Load, check_quiet, store_of

pytestmark = pytest.mark.chaos


@pytest.fixture(params=["threads", "gevent", "solo"])
def pool(
    request: pytest.FixtureRequest, app_settings: dict[str, Any], tmp_path: Path
) -> Iterator[tuple[Fleet, Callable[..., Load]]]:
    """Two workers with another pool and a deployment of their own, and what makes their loads."""
    name: str = request.param
    settings = app_settings | {"prefix": name}
    slots = [] if name == "solo" else ["-c", str(SLOTS)]
    fleet = Fleet(settings, tmp_path, "-P", name, *slots)
    try:
        with make_app(**settings) as app, app.journal.client, store_of(app) as store:
            fleet.heal()
            yield fleet, lambda *size: Load(app, store, *size)
            check_quiet(store)
    finally:
        fleet.close()


def test_order_with_a_failing_writer_a_killed_worker_a_killed_broker_and_a_shutdown(
    pool: tuple[Fleet, Callable[..., Load]], broker: Server
) -> None:
    fleet, load = pool
    turns = load(24, 8)
    turns.publish(fail=0.1, work=0.01)
    turns.wait_for_share(0.2)
    fleet.members[0].kill()
    turns.wait_for_share(0.4)
    broker.restart()
    turns.check()
    assert fleet.members[1].is_running

    fleet.heal()
    again = load(24, 8)
    again.publish(fail=0.1, work=0.01)
    again.wait_for_share(0.2)
    assert fleet.members[0].stop() == 0
    again.check()
