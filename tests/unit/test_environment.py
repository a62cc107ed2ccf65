"""Settings handed to a child process arrive there as they were."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from hermes_tasks.cli.environment import environment_of
from hermes_tasks.config import Settings


def test_settings_survive_the_way_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        broker_url="redis://:s3cret@127.0.0.1:7000/3",
        broker_options={"master_name": "m", "socket_timeout": 2.5},
        queue_limit=3,
        lease_seconds=2.5,
        timeout_ceiling=2.0,
        first_byte_strict=True,
        rate_limit="1000/h",
        honcho_url="http://127.0.0.1:8000",
        honcho_api_key="k3y",
        encryption_keys=",".join(Fernet.generate_key().decode() for _ in range(2)),
    )
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings().model_dump() == settings.model_dump()
