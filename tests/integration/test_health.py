"""``hermes-tasks health``, as a probe asks it: a worker that takes no turns is not well."""

from __future__ import annotations

import socket

import pytest

from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.transport import run_queue
from tests.conftest import StartWorker
from tests.integration.commands import Commands

pytestmark = pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)


@pytest.fixture
def run(settings: Settings) -> Commands:
    return Commands(settings)


def test_a_worker_that_takes_turns_is_well_and_one_that_does_not_is_not(
    run: Commands, worker: StartWorker, settings: Settings
) -> None:
    # Given no worker, I expect that not to be well, whoever is asked for
    for arguments in ([], ["--any"], ["--worker", "nobody"]):
        assert run("health", *arguments).exit_code == 1

    # Given one that runs
    with HonchoServer() as honcho:
        worker("-c", "1", "-n", "probed@%h", env={"HONCHO_URL": honcho.url})
        node = f"probed@{socket.gethostname()}"
        wait_until(lambda: run("health").exit_code == 0, 20, "the worker to be well")
        # I expect it to be found by its name, by its host, and among all
        for arguments in ([], ["--any"], ["--worker", node], ["--worker", "probed@%h"]):
            result = run("health", *arguments)
            assert (result.exit_code, result.stdout) == (0, f"well: turns are taken by {node}\n")
        document = run.json("health")
        assert document["healthy"] is True
        assert [one["name"] for one in document["workers"]] == [node]
        assert run("status").exit_code == 0

        # When it runs on, and its consumer is cancelled
        app = make_app(settings, set_as_current=False)
        app.control.cancel_consumer(run_queue(settings.prefix).name)
        # I expect every probe to say so, and status what to do
        wait_until(lambda: run("health").exit_code == 1, 20, "the worker not to be well")
        assert run("health").stdout == f"not well: {node} runs, and takes no turns\n"
        assert run("health", "--liveness", "--worker", node).exit_code == 1
        assert f"No worker takes turns, though there is {node}." in run("status").stdout


def test_redis_being_away_is_no_reason_to_restart_a_worker(server_type: type[Server]) -> None:
    away = Commands(Settings(broker_url="redis://127.0.0.1:1/0"))
    assert away("health").exit_code == 3
    result = away("health", "--liveness")
    assert result.exit_code == 0
    assert "that is no fault of a worker" in result.stdout
