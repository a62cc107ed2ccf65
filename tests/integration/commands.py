"""``hermes-tasks`` within the process of a test: it starts in no time."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from hermes_tasks.cli import main
from hermes_tasks.config import Settings


class Commands:
    """The commands of an operator of the deployment of a test.

    ``run("sessions", "list")`` gives what was printed, and the exit status; ``run.json`` the
    document. ``columns``: of the terminal.
    """

    def __init__(self, settings: Settings, columns: int = 200, **env: str) -> None:
        self._env = {
            "HERMES_TASKS_BROKER_URL": settings.broker_url,
            "HERMES_TASKS_PREFIX": settings.prefix,
            "COLUMNS": str(columns),
            **env,
        }

    def __call__(self, *arguments: str, input: str | None = None) -> Result:
        runner = CliRunner(env=self._env)
        return runner.invoke(main, arguments, input=input, catch_exceptions=False)

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)
