"""Two workers, a broker that may be hurt, and a journal that is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kombu.pools
import pytest
from celery import Celery

from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.transport import SessionStore
from tests.integration.order.app import make_app
from tests.integration.order.fleet import Fleet
from tests.integration.order.journal import Journal
from tests.integration.order.load import Load, check_quiet, store_of


@pytest.fixture(scope="package")
def broker() -> Iterator[Server]:
    """The broker of all tests of this directory; each leaves it as it found it."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="package")
def journal_server() -> Iterator[Server]:
    """The server of the journal, which nothing is done to."""
    with EmbeddedValkey(config={"appendonly": "no"}) as server:
        yield server


@pytest.fixture(scope="package")
def journal(journal_server: Server) -> Iterator[Journal]:
    journal = Journal(journal_server.url)
    yield journal
    journal.client.close()


@pytest.fixture(scope="package")
def app_settings(broker: Server, journal_server: Server) -> dict[str, Any]:
    """What ``make_app`` needs, here and in every worker."""
    return {
        "broker": broker.url,
        "journal": journal_server.url,
        "prefix": "order",
        "result_backend": journal_server.url.removesuffix("/0") + "/1",
    }


@pytest.fixture
def app(app_settings: dict[str, Any]) -> Iterator[Celery]:
    """The application as its publishers see it, with connections that no test has hurt yet."""
    kombu.pools.reset()
    with make_app(**app_settings) as app, app.journal.client:
        yield app
        app.backend.client.connection_pool.disconnect()


@pytest.fixture
def store(app: Celery) -> Iterator[SessionStore]:
    """The state of the application's sessions."""
    with store_of(app) as store:
        yield store


@pytest.fixture(scope="package")
def fleet_of_package(
    app_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    fleet = Fleet(app_settings, tmp_path_factory.mktemp("fleet"))
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(fleet_of_package: Fleet) -> Fleet:
    """Two workers of four slots each, alive; what a test does to them is made good after it."""
    fleet_of_package.heal()
    return fleet_of_package


@pytest.fixture
def load(
    app: Celery, store: SessionStore, fleet_of_package: Fleet
) -> Iterator[Callable[..., Load]]:
    """Makes loads of ``(sessions, turns)``; after the test no session may be stuck."""

    def make(sessions: int = 40, turns: int = 8) -> Load:
        return Load(app, store, sessions, turns)

    yield make
    try:
        check_quiet(store)
    except BaseException:
        # What is stuck would fail every test after this one.
        fleet_of_package.close()
        store.client.flushdb()
        raise
