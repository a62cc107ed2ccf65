"""The host's own commands, in a process of its own: setup, status, and those of the provider."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hermes_tasks.config import Settings
from hermes_tasks.testing.honcho import HonchoServer

# One process for all of them: each takes two seconds to import the host.
COMMANDS = """
import sys
from hermes_cli.main import main
for line in sys.argv[1:]:
    sys.argv = ["hermes", *line.split()]
    print("$", line, flush=True)
    try:
        main()
    except SystemExit as exit:
        print("status", exit.code)
"""


def hermes(*lines: str, answers: str = "") -> dict[str, str]:
    """What the host prints for each of its commands."""
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS, *lines],
        input=answers,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    parts = re.split(r"^\$ (.*)$", ran.stdout, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_setup_status_and_the_commands_of_the_bundled_provider(
    home: Path, honcho: HonchoServer, deployment: Settings
) -> None:
    # Given a Hermes with the plugin installed, and a user who takes every default,
    said = hermes(
        "memory setup honcho_tasks", "memory status", "honcho_tasks status", "honcho_tasks peer"
    )
    # I expect it to be the memory provider, and to be set up like the bundled one
    assert "Memory provider: honcho_tasks" in said["memory setup honcho_tasks"]
    assert "provider: honcho_tasks" in (home / "config.yaml").read_text()
    status = said["memory status"]
    assert "Status:    available" in status
    assert "Provider:  honcho_tasks" in status
    assert deployment.broker_url in status
    # its own status to say what is written where
    assert "accepted:" in said["honcho_tasks status"]
    assert f"honcho:         {honcho.url}" in said["honcho_tasks status"]
    assert "Connection... " in said["honcho_tasks status"]
    # and the commands that would disappear with the bundled provider to be here
    assert "igor" in said["honcho_tasks peer"]
