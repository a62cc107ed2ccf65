"""What the README says holds: its code runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hermes_tasks.config import Settings
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.workers import clean_environment

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("server_type", [EmbeddedValkey], indirect=True)
def test_its_example_runs_as_it_stands(settings: Settings, worker: object, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    with HonchoServer() as honcho:
        assert callable(worker)
        worker("--pool", "threads", "--without-mingle", env={"HONCHO_URL": honcho.url})
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=clean_environment()
            | {
                "HERMES_TASKS_BROKER_URL": settings.broker_url,
                "HERMES_TASKS_PREFIX": settings.prefix,
                "HERMES_TASKS_OUTBOX_DIR": str(tmp_path / "outbox"),
            },
            check=True,
            timeout=30,
        )
        said = [(entry["peer"], entry["content"]) for entry in honcho.log()]
    assert said == [
        ("igor", "Where did I park?"),
        ("hermes", "On level 3, next to the lift."),
    ]
