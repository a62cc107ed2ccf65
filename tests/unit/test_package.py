"""What ``import hermes_tasks`` gives, and what it does not cost."""

from __future__ import annotations

import inspect
import subprocess
import sys

import hermes_tasks
from hermes_tasks import errors


def run(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_importing_loads_neither_celery_nor_settings() -> None:
    run(
        "import sys, hermes_tasks\n"
        "heavy = {'celery', 'kombu', 'redis', 'pydantic', 'httpx', 'honcho', 'sqlite3'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )


def test_celery_finds_the_app_by_the_name_of_the_package() -> None:
    # As `celery -A hermes_tasks` does; also when the module `app` was imported before.
    for before in ("", "import hermes_tasks.app\n"):
        run(
            f"{before}"
            "from celery import Celery\n"
            "from celery.app.utils import find_app\n"
            "app = find_app('hermes_tasks')\n"
            "assert isinstance(app, Celery)\n"
            "app.loader.import_default_modules()\n"
            "assert 'hermes_tasks.sync_turn' in app.tasks\n"
        )


def test_every_error_can_be_imported_from_the_package() -> None:
    ours = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.HermesTasksError)
    }
    assert ours <= set(hermes_tasks.__all__)
    assert all(getattr(hermes_tasks, name) for name in hermes_tasks.__all__)
