"""The memory provider: the bundled one reads, :class:`~hermes_tasks.TurnSync` writes.

How long the host may wait here, in seconds, whatever Honcho, Redis and the workers do:

===========================================  ===================================================
``sync_turn``, ``on_memory_write``           nothing: they append to the outbox
a tool that writes a conclusion              nothing, likewise
a tool that reads                            :data:`TOOL_FLUSH_SECONDS`, then the host's time-out
``on_session_end``                           :data:`SESSION_END_SECONDS`
``shutdown``                                 :data:`SHUTDOWN_SECONDS`, and what the bundled one
                                             needs, up to :data:`BUNDLED_SHUTDOWN_SECONDS`
===========================================  ===================================================

What is not written by then is not lost: it is in the outbox or in Redis.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from agent.memory_manager import sanitize_context
from agent.memory_provider import MemoryProvider

from hermes_tasks.config import Settings
from hermes_tasks.errors import (
    Closed,
    ConfigurationError,
    HermesTasksError,
    InvalidTurn,
    StillSyncing,
)
from hermes_tasks.gateway.sync import TurnSync
from hermes_tasks.hermes import NAME, bundled, sending, setup
from hermes_tasks.hermes.bounded import Bounded, TookTooLong
from hermes_tasks.hermes.identity import HostConfig, Identity, observation, saves_messages
from hermes_tasks.scrub import scrub
from hermes_tasks.text import CONTENT_LIMIT, clean, split

logger = logging.getLogger(__name__)

TOOL_FLUSH_SECONDS = 5.0
"""How long a tool that reads waits for what was just said to be written."""

SESSION_END_SECONDS = 3.0
"""How long the end of a session waits for the same. Compression waits for it, too."""

SHUTDOWN_SECONDS = 3.0
"""How long the end of the process waits for Redis to take what is in the outbox. The host kills it
30 s after its end began, of which it may use 15 s itself."""

BUNDLED_SHUTDOWN_SECONDS = 1.0
INITIALIZE_SECONDS = 3.0
"""How long the bundled provider may take to begin before nobody waits for it any more."""

READ_SECONDS = 30.0
"""The host's time-out for Honcho when none is configured."""

RETRY_SECONDS = 5.0
"""What a tool is told to wait when it is not known better."""


class HonchoTasksProvider(MemoryProvider):
    """The host's Honcho memory, with turns that go through the queue."""

    def __init__(self) -> None:
        self._bundled: Any = None
        self._config: HostConfig | None = None
        self._identity: Identity | None = None
        # What the host said of the session when it began.
        self._context: dict[str, Any] = {}
        # By the host's id of the session: turns reach us late, from another thread.
        self._identities: dict[str, Identity] = {}
        self._sync: TurnSync | None = None
        # Honcho sessions that were given something since they were last known to be written.
        self._unwritten: set[str] = set()
        self._why_silent = "this session has not begun"
        self._ended = False
        self._calls = Bounded("honcho-tasks-call")
        # Apart from the calls: when those hang, a session can still begin.
        self._lifecycle = Bounded("honcho-tasks-bundled")

    @property
    def name(self) -> str:
        return NAME

    @property
    def bundled(self) -> Any:
        """The bundled provider, loaded when it is first needed."""
        if self._bundled is None:
            self._bundled = bundled.load()
        return self._bundled

    # -- the life of a session -----------------------------------------------------------------

    def is_available(self) -> bool:
        """Whether Honcho is configured and the settings can be used. Asks nobody."""
        try:
            config = bundled.read_config(self.bundled)
            Settings()
        except ConfigurationError as error:
            logger.warning("memory provider %s: %s", NAME, error)
            return False
        return bool(config.enabled and (config.api_key or config.base_url))

    def initialize(self, session_id: str, **context: Any) -> None:
        """Begin a session. Never waits for the network."""
        config = self._config = bundled.read_config(self.bundled)
        self._context = context
        self._why_silent = _why_silent(config, context)
        self._ended = False
        if not self._why_silent and self._sync is None:
            bundled.load_sdk()
            self._sync = sending.begin()
            self._sync.warm_up()
        self._enter(session_id, Identity.of(config, session_id, context), self.bundled)

    def on_session_switch(
        self,
        new_session_id: str,
        *,
        parent_session_id: str = "",
        reset: bool = False,
        rewound: bool = False,
        **context: Any,
    ) -> None:
        """The host's session has a new id: ``/new``, ``/resume``, ``/branch``, compression."""
        config, identity = self._config, self._identity
        if config is None or identity is None:
            return
        if rewound or context.get("reason") == "compression":
            # The same conversation goes on, in the Honcho session it has.
            self._identities[new_session_id] = identity
            return
        # The title is that of the session that was left.
        self._context.pop("session_title", None)
        self._context.update({k: v for k, v in context.items() if k == "session_title"})
        fresh = Identity.of(config, new_session_id, self._context)
        if fresh == identity:
            self._identities[new_session_id] = identity
            return
        # The bundled one cannot change its session; a new one can begin in another.
        self._enter(new_session_id, fresh, bundled.load())

    def on_session_end(self, messages: list[dict[str, Any]]) -> None:
        """Wait until what was said is written, up to :data:`SESSION_END_SECONDS`."""
        try:
            self._flush(SESSION_END_SECONDS)
        except HermesTasksError as error:
            logger.info("the session ends before all is written: %s", error)

    def shutdown(self) -> None:
        """Send what is in the outbox, or leave it there for the next process."""
        if self._sync is not None:
            self._sync, self._ended = None, True
            self._why_silent = "this session has ended"
            sending.end(SHUTDOWN_SECONDS)
        if self._bundled is not None:
            self._leave_bundled(self._bundled.shutdown, BUNDLED_SHUTDOWN_SECONDS)

    def _enter(self, session_id: str, identity: Identity, provider: Any) -> None:
        bundled.guide(provider, identity, writes=not self._why_silent)
        self._bundled = provider
        self._identity = self._identities[session_id] = identity
        self._leave_bundled(
            lambda: provider.initialize(session_id, **self._context), INITIALIZE_SECONDS
        )

    def _leave_bundled(self, call: Callable[[], Any], timeout: float) -> None:
        """Let the bundled provider do something that nothing of ours depends on."""
        try:
            self._lifecycle.run(call, timeout)
        except TookTooLong:
            logger.info("the bundled Honcho provider takes its time; it is not waited for")
        except Exception as error:  # noqa: BLE001 - it must not take our part along
            logger.warning("the bundled Honcho provider failed: %s", type(error).__name__)

    # -- writing -------------------------------------------------------------------------------

    def sync_turn(
        self,
        user_content: str,
        assistant_content: str,
        *,
        session_id: str = "",
        messages: list[dict[str, Any]] | None = None,
    ) -> None:
        """Accept a turn. Never waits.

        Raises:
            Closed: :meth:`shutdown` has begun.
        """
        if self._ended:
            raise Closed("this session has ended: the turn is not remembered")
        sync, config = self._sync, self._config
        identity = self._identities.get(session_id, self._identity)
        if sync is None or config is None or identity is None:
            return
        said = [
            *_messages(identity.user, user_content, config.message_max_chars),
            *_messages(identity.assistant, assistant_content, config.message_max_chars),
        ]
        if not said:
            return
        sync.sync_turn(
            workspace=identity.workspace,
            session=identity.session,
            messages=said,
            peers=observation(config, identity),
        )
        self._unwritten.add(identity.session)

    def on_memory_write(
        self,
        action: str,
        target: str,
        content: str,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """The host has noted a fact about the user: it becomes a conclusion. Never waits.

        One that was corrected becomes another; Honcho settles what contradicts.
        """
        if action not in ("add", "replace") or target != "user" or self._sync is None:
            return
        try:
            self._conclude("user", content)
        except InvalidTurn as error:
            logger.info("a note about the user is not remembered: %s", error)

    def _conclude(self, peer: object, content: str) -> None:
        sync, identity, config = self._sync, self._identity, self._config
        if sync is None or identity is None or config is None:
            raise Closed(self._why_silent)
        observed = identity.peer(peer)
        others = bundled.observes_others(self.bundled, config)
        sync.conclude(
            workspace=identity.workspace,
            session=identity.session,
            # As the host does: who may not observe others is told of by himself.
            observer=identity.assistant if others or observed == identity.assistant else observed,
            observed=observed,
            content=content.strip(),
        )
        self._unwritten.add(identity.session)

    def _flush(self, timeout: float) -> None:
        """Wait until what this session was given is written, or as long as any flush may take.

        Raises:
            StillSyncing: it is not yet.
        """
        sync, identity = self._sync, self._identity
        if sync is None or identity is None or identity.session not in self._unwritten:
            return
        timeout = min(timeout, sync.settings.flush_timeout)
        # Before the wait: what comes meanwhile is not waited for.
        self._unwritten.discard(identity.session)
        try:
            sync.flush(session=identity.session, workspace=identity.workspace, timeout=timeout)
        except HermesTasksError:
            self._unwritten.add(identity.session)
            raise

    # -- tools ---------------------------------------------------------------------------------

    def get_tool_schemas(self) -> list[dict[str, Any]]:
        schemas: list[dict[str, Any]] = self.bundled.get_tool_schemas()
        return schemas

    def handle_tool_call(self, tool_name: str, args: dict[str, Any], **context: Any) -> str:
        """Answer a tool call, as JSON. Conclusions are queued; all else the bundled one does."""
        if tool_name == "honcho_conclude" and _is_new_conclusion(args):
            return self._answer_conclude(args)
        writes = tool_name == "honcho_conclude" and bool(args.get("delete_id"))
        writes |= tool_name == "honcho_profile" and bool(args.get("card"))
        if writes and self._why_silent:
            return _error(f"nothing is written: {self._why_silent}")
        try:
            if not writes:
                self._flush(TOOL_FLUSH_SECONDS)
            return self._calls.run(
                lambda: str(self.bundled.handle_tool_call(tool_name, args, **context)),
                (self._config and self._config.timeout) or READ_SECONDS,
            )
        except StillSyncing as error:
            wait = max(1.0, error.retry_after or RETRY_SECONDS)
            return _retry(f"what was just said is not in memory yet: {error.reason}", wait)
        except HermesTasksError as error:
            return _retry(str(error), RETRY_SECONDS)
        except TookTooLong:
            if writes:
                return _retry("Honcho has not answered; look whether it was done", RETRY_SECONDS)
            return _retry("Honcho has not answered", RETRY_SECONDS)

    def _answer_conclude(self, args: dict[str, Any]) -> str:
        peer, conclusion = args.get("peer") or "user", str(args["conclusion"]).strip()
        try:
            self._conclude(peer, conclusion)
        except Closed as error:
            return _error(f"nothing is written: {error}")
        except InvalidTurn as error:
            return _error(f"this cannot be a conclusion: {error}")
        return json.dumps({"result": f"Conclusion saved for {peer}: {conclusion}"})

    # -- reading, and whatever else the host asks of a provider: the bundled one does it --------

    def system_prompt_block(self) -> str:
        return self.bundled.system_prompt_block() or ""

    def prefetch(self, query: str, *, session_id: str = "") -> str:
        return self.bundled.prefetch(query, session_id=session_id) or ""

    def queue_prefetch(self, query: str, *, session_id: str = "") -> None:
        self.bundled.queue_prefetch(query, session_id=session_id)

    def on_turn_start(self, turn_number: int, message: str, **context: Any) -> None:
        self.bundled.on_turn_start(turn_number, message, **context)

    def on_pre_compress(self, messages: list[dict[str, Any]]) -> str:
        return self.bundled.on_pre_compress(messages) or ""

    def on_delegation(
        self, task: str, result: str, *, child_session_id: str = "", **context: Any
    ) -> None:
        self.bundled.on_delegation(task, result, child_session_id=child_session_id, **context)

    def backup_paths(self) -> list[str]:
        paths: list[str] = self.bundled.backup_paths()
        return paths

    def get_config_schema(self) -> list[dict[str, Any]]:
        return [*self.bundled.get_config_schema(), *setup.SCHEMA]

    def save_config(self, values: dict[str, Any], hermes_home: str) -> None:
        self.bundled.save_config(values, hermes_home)

    def post_setup(self, hermes_home: str, config: dict[str, Any]) -> None:
        """``hermes memory setup honcho_tasks``"""
        setup.run(self.bundled, hermes_home, config)

    def get_status_config(self, provider_config: dict[str, Any]) -> dict[str, Any]:
        """``hermes memory status``"""
        return {**(provider_config or {}), **setup.describe(self.bundled)}


def _why_silent(config: HostConfig, context: dict[str, Any]) -> str:
    """Why a session writes nothing; empty if it does."""
    kind = context.get("agent_context") or "primary"
    if context.get("platform") == "cron":
        kind = "cron"
    if kind != "primary":
        return f"the context is {kind}, not a conversation with the user"
    if not saves_messages(config):
        return "saveMessages is false"
    return ""


def _messages(peer: str, text: str | None, limit: int) -> list[dict[str, str]]:
    """What a peer said, without what was recalled for it; none if that was all."""
    # Ours first: the host's takes a tag away and leaves what an unfinished span holds.
    text = sanitize_context(scrub(text or "")).strip()
    if not text:
        return []
    if 0 < limit < CONTENT_LIMIT:
        return [{"peer": peer, "content": part} for part in split(clean(text), limit)]
    return [{"peer": peer, "content": text}]


def _is_new_conclusion(args: dict[str, Any]) -> bool:
    return bool(str(args.get("conclusion") or "").strip()) and not any(
        args.get(other) for other in ("delete_id", "list", "query")
    )


def _error(message: str) -> str:
    return json.dumps({"error": message})


def _retry(message: str, seconds: float) -> str:
    return json.dumps(
        {
            "error": f"{message}; nothing is lost, call this tool again in about {seconds:.0f} s",
            "retryable": True,
            "retry_after": round(seconds, 1),
        }
    )
