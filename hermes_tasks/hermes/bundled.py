"""The host's bundled Honcho provider, which goes on reading.

It is loaded by name, as the host does it: it is about to leave the host's core, and nothing here
imports it. It is told under which ids to read, so that it finds what is written under them, and
that it writes no turns.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from typing import Any

from hermes_tasks.errors import ConfigurationError
from hermes_tasks.hermes.identity import HostConfig, Identity, check_address

logger = logging.getLogger(__name__)

NAME = "honcho"
NO_KEY = "local"
"""What a self-hosted Honcho without keys is given for one: the SDK wants something."""


def load() -> Any:
    """A new bundled provider.

    Raises:
        ConfigurationError: the host has none.
    """
    from plugins.memory import load_memory_provider

    provider = load_memory_provider(NAME)
    if provider is None:
        raise ConfigurationError(
            f"this Hermes has no memory provider '{NAME}', which reads for this one: install "
            "hermes-agent[honcho]"
        )
    return provider


def module_of(provider: Any, name: str) -> Any:
    """A module beside the bundled provider, such as ``client`` or ``cli``."""
    return importlib.import_module(f"{type(provider).__module__}.{name}")


def read_config(provider: Any) -> HostConfig:
    """The host's configuration of Honcho: host block, root, environment. No network.

    Raises:
        ConfigurationError: the address in it is none.
    """
    config: HostConfig = module_of(provider, "client").HonchoClientConfig.from_global_config()
    check_address(config)
    return config


def guide(provider: Any, identity: Identity, *, writes: bool) -> None:
    """Make a bundled provider read under these ids, and write no turns. Before ``initialize``.

    Args:
        provider: from :func:`load`.
        identity: under which our turns are written.
        writes: whether anything at all may be written; if not, it uploads no memory files either.
    """

    def session_key(config: HostConfig, session_id: str, **context: Any) -> str:
        # It calls this first thing, before any network, with the configuration it will use.
        config.workspace_id = identity.workspace
        config.peer_name, config.pin_peer_name = identity.user, True
        config.ai_peer = identity.assistant
        if config.base_url and not config.api_key:
            config.api_key = NO_KEY
        # "async" would start a thread for its writes that nothing ever ends.
        config.write_frequency = "session"
        if not writes:
            # Of the strategies, the one under which it uploads no files.
            config.session_strategy = "per-session"
        return identity.session

    if hasattr(provider, "_resolve_session_key"):
        provider._resolve_session_key = session_key
    else:
        logger.warning(
            "the bundled Honcho provider of this Hermes is not known: it may read another session "
            "than is written"
        )


def load_sdk() -> None:
    """Import what the bundled provider would import in a thread of its own, beside the first turns.

    An import keeps the interpreter for milliseconds on end, and a turn that came then would wait.
    """
    with contextlib.suppress(ImportError):  # it says itself what is missing
        importlib.import_module("honcho")


def observes_others(provider: Any, config: HostConfig) -> bool:
    """Whether the assistant's peer forms a picture of the others: the server has the last word."""
    manager = getattr(provider, "_manager", None)
    return bool(getattr(manager, "_ai_observe_others", config.ai_observe_others))
