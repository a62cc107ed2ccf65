"""docker-compose.yml as Compose reads it, with an .env of ours."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from compose_spec import PyCompose

PROJECT = Path(__file__).parents[1]

#: `${NAME:-default}` and `${NAME:?what to do}`.
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}")


def new_environment(honcho_url: str) -> dict[str, str]:
    """What `deploy/env.sh` writes into an .env."""
    made = subprocess.run(
        ["sh", PROJECT / "deploy" / "env.sh", honcho_url],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line for line in made.stdout.splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def read_compose(environment: dict[str, str]) -> dict[str, Any]:
    """The file with that environment, checked against the Compose Specification.

    Raises:
        ValueError: it is none, or needs a variable that the environment has not.
    """

    def value(variable: re.Match[str]) -> str:
        name, kind, text = variable.groups()
        if kind != "-" and not environment.get(name):
            raise ValueError(f"{name} is not set")
        return environment.get(name) or (text if kind == "-" else "")

    def filled(node: Any) -> Any:
        """As Compose does it: in texts that YAML has read, so that an empty one stays a text."""
        if isinstance(node, dict):
            return {name: filled(below) for name, below in node.items()}
        if isinstance(node, list):
            return [filled(below) for below in node]
        return VARIABLE.sub(value, node).replace("$$", "$") if isinstance(node, str) else node

    written = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = filled(written)
    # The one value that its parser of addresses does not know.
    PyCompose.from_json(json.dumps(found).replace("host-gateway", "192.0.2.1"))
    return found
