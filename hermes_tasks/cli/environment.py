"""Settings handed to a child process."""

from __future__ import annotations

import json

from hermes_tasks.config import Settings, environment_variable


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment variables that give a process these settings, secrets included."""
    values = settings.model_dump(exclude_none=True)
    values["encryption_keys"] = ",".join(k.get_secret_value() for k in settings.encryption_keys)
    if settings.honcho_api_key is not None:
        values["honcho_api_key"] = settings.honcho_api_key.get_secret_value()
    return {
        environment_variable(name): json.dumps(value) if isinstance(value, dict) else str(value)
        for name, value in values.items()
    }
