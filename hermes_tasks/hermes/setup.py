"""What ``hermes memory setup`` and ``hermes memory status`` ask of the provider."""

from __future__ import annotations

import os
import sys
from typing import Any

from hermes_tasks.config import Settings, environment_variable
from hermes_tasks.errors import ConfigurationError
from hermes_tasks.hermes import NAME, bundled
from hermes_tasks.hermes.identity import Identity, saves_messages

_BROKER = environment_variable("broker_url")

SCHEMA: list[dict[str, Any]] = [
    {
        "key": "broker_url",
        "description": "Redis that carries the turns to the workers",
        # It may hold a password.
        "secret": True,
        "env_var": _BROKER,
    }
]


def run(provider: Any, hermes_home: str, config: dict[str, Any]) -> None:
    """Set up Honcho by the bundled wizard, then the queue, and make this the memory provider.

    Args:
        provider: the bundled one.
        hermes_home: the host's directory.
        config: the host's configuration, as it was before.
    """
    from hermes_cli.config import load_config, save_config, save_env_value

    provider.post_setup(hermes_home, config)

    print("\n  The queue")
    given = os.environ.get(_BROKER)
    shown = Settings.load(broker_url=given).safe_broker_url
    sys.stdout.write(f"  Redis that carries the turns [{shown}]: ")
    sys.stdout.flush()
    answer = sys.stdin.readline().strip()
    try:
        if answer:
            Settings.load(broker_url=answer)
            save_env_value(_BROKER, answer)
    except ConfigurationError as error:
        print(f"  Not saved: {error}")
    # The wizard has saved the host's configuration, with itself as the provider.
    config = load_config()
    memory = config.get("memory")
    config["memory"] = {**(memory if isinstance(memory, dict) else {}), "provider": NAME}
    save_config(config)
    print(f"\n  Memory provider: {NAME}, saved to config.yaml")
    print("  Turns are written by workers: celery -A hermes_tasks worker")
    print(f"  See 'hermes {NAME} status'.\n")


def describe(provider: Any) -> dict[str, str]:
    """What is in force, and what is wrong. No secrets."""
    try:
        settings = Settings()
        config = bundled.read_config(provider)
    except ConfigurationError as error:
        return {"problem": str(error)}
    identity = Identity.of(config, "", {})
    return {
        "honcho": config.base_url or f"the {config.environment} environment",
        "workspace": identity.workspace,
        # What a session would be called that begins here and now.
        "session": "each its own" if config.session_strategy == "per-session" else identity.session,
        "user peer": identity.user,
        "assistant peer": identity.assistant,
        "broker": settings.safe_broker_url,
        "prefix": settings.prefix,
        "outbox": str(settings.outbox_dir),
        "writes": "on" if saves_messages(config) else "off: saveMessages is false",
    }
