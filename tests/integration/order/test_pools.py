"""The same order, faults included, on the pools other than prefork."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from hermes_tasks.testing.servers import Server
from hermes_tasks.transport import SessionStore
from tests.integration.order.fleet import SLOTS, Fleet
from tests.integration.order.load import Load, check_quiet

pytestmark = pytest.mark.chaos

WORK = 0.01


@pytest.fixture(params=["threads", "gevent", "solo"])
def pool_fleet(
    request: pytest.FixtureRequest, app_settings: dict[str, Any], tmp_path: Path, broker: Server
) -> Iterator[Fleet]:
    """Two workers of another pool, and nobody else on their run queue."""
    slots = [] if request.param == "solo" else ["-c", str(SLOTS)]
    fleet = Fleet(
        app_settings | {"prefix": request.param}, tmp_path, "-P", request.param, *slots
    )
    yield fleet
    fleet.close()
