"""Each session's turns are written in order, each once; sessions run at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.transport import SessionStore
from tests.integration.order.app import make_app
from tests.integration.order.fleet import Fleet
from tests.integration.order.load import Load, store_of


@pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)
def test_two_hundred_sessions_keep_their_order_while_the_writer_fails_at_random(
    server: Server, journal_server: Server, tmp_path: Path
) -> None:
    settings = {"broker": server.url, "journal": journal_server.url, "prefix": "big"}
    fleet = Fleet(settings, tmp_path)
    try:
        with make_app(**settings) as app, app.journal.client, store_of(app) as store:
            load = Load(app, store, sessions=200, turns=10)
            fleet.heal()
            load.publish(fail=0.1, work=0.001)
            load.check()
            assert load.store.counters()["retried"] > 0
            known = {name for name in load.store.client.scan_iter() if b"_kombu" not in name}
            idle = {load.store.names.session(session)[0].encode() for session in load.sessions}
            assert known - idle == {b"{big}:meta", b"{big}:stats"}
    finally:
        fleet.close()


def test_the_same_load_on_stock_celery_is_out_of_order(
    store: SessionStore, app_settings: dict[str, Any], tmp_path: Path
) -> None:
    """The control: what is expected above does not come by itself."""
    settings = app_settings | {"prefix": "stock", "ordered": False}
    fleet = Fleet(settings, tmp_path)
    try:
        with make_app(**settings) as app, app.journal.client:
            load = Load(app, store, sessions=20, turns=16)
            for number in range(load.turns):
                for session in load.sessions:
                    app.tasks["order.write"].apply_async(
                        (session, number), {"fail": 0.1, "work": 0.001}
                    )
            fleet.heal()
            load.wait_for_share(1.0)
            assert load.disorder() != {}
    finally:
        fleet.close()
