"""Traces of OpenTelemetry: from the gateway's call to the write of its turn (extra ``otel``).

::

    sync_turn              the caller hands a turn over; it ends when that is in the outbox
    └── publish turn       it goes to Redis; once for each time that it is sent
        └── write turns    a worker writes it, and those batched behind it; once for each attempt
            └── call Honcho

Turns that are written behind another one are in its trace by a link: ``write turns`` is a child of
the batch's first turn and linked to the others. The context travels in the row of the outbox and
then in the headers of the Celery message, in whatever form ``opentelemetry.propagate`` is set to.
So it survives a gateway that dies, and one without tracing between.

Nothing is to be switched on: there are spans where the process has set a tracer provider, and
otherwise OpenTelemetry is not even imported. Spans carry ids and numbers, never what was said, and
of an error only its name. What fails in the tracing is not let through to what is traced; but a
span processor that waits for the network would make ``sync_turn`` wait: use one that batches.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from hermes_tasks.errors import LeaseLost, SessionHeld

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

logger = logging.getLogger(__name__)

CARRIER: Final = "trace"
"""What the context is called in the row of an outbox."""

VALUE_LIMIT: Final = 1_024
"""Longest entry of a context that is carried, in characters; baggage may be anything."""

Value = str | int | float | bool


class Traced:
    """A span, or nothing where nobody traces. As a context it is current, and ends with the block.

    Args:
        span: what is traced, or ``None``.
        context: where it is the current span.
    """

    __slots__ = ("_context", "_span", "_token")

    def __init__(self, span: Span | None = None, context: Context | None = None) -> None:
        self._span = span
        self._context = context
        self._token: Any = None

    def set(self, name: str, value: Value) -> None:
        """Note a number, an id or a word. Never anything that a person said."""
        if self._span is not None:
            try:
                self._span.set_attribute(name, value)
            except Exception as error:  # noqa: BLE001 - see _failed
                _failed(error)

    def carrier(self) -> dict[str, str]:
        """The context as text, to go on elsewhere; empty where nobody traces."""
        found: dict[str, str] = {}
        if self._span is None:
            return found
        try:
            from opentelemetry import propagate

            propagate.inject(found, self._context)
        except Exception as error:  # noqa: BLE001 - see _failed
            _failed(error)
        return carried(found)

    def end(self, error: BaseException | None = None) -> None:
        """It is over; ``error``: why it failed, of which the name is noted."""
        span, self._span = self._span, None
        if span is None:
            return
        try:
            if error is not None:
                from opentelemetry.trace import StatusCode

                kind = type(error).__name__
                if isinstance(error, SessionHeld | LeaseLost):
                    # Somebody else goes on, or the same later: nothing is wrong.
                    span.set_attribute("hermes_tasks.outcome", kind)
                else:
                    span.set_attribute("error.type", kind)
                    span.set_status(StatusCode.ERROR, kind)
            span.end()
        except Exception as failure:  # noqa: BLE001 - see _failed
            _failed(failure)

    def attach(self) -> None:
        """Make it the current span of this thread."""
        if self._context is not None:
            from opentelemetry import context

            self._token = context.attach(self._context)

    def detach(self) -> None:
        """Make what was current before current again."""
        token, self._token = self._token, None
        if token is not None:
            from opentelemetry import context

            context.detach(token)

    def __enter__(self) -> Self:
        if self._context is not None:
            self.attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._context is not None:
            self.detach()
            self.end(error)


NOTHING: Final = Traced()


def accepting(name: Literal["sync_turn", "conclude"]) -> Traced:
    """A caller hands something over."""
    if "opentelemetry.trace" not in sys.modules:
        return NOTHING
    return _start(name, "INTERNAL", {"messaging.operation.type": "create"})


def publishing(
    carrier: Mapping[str, str], turn_id: str, session_key: str, *, resent: bool
) -> Traced:
    """Something goes to Redis. What came without a context goes on without one.

    Args:
        carrier: the context that it came with.
        turn_id: its id.
        session_key: ``backend:workspace:session``.
        resent: it may have reached Redis before.
    """
    if not carrier:
        return NOTHING
    attributes: dict[str, Value] = {
        "messaging.operation.type": "send",
        "messaging.message.id": turn_id,
        "messaging.message.conversation_id": session_key,
        "hermes_tasks.resent": resent,
    }
    return _start("publish turn", "PRODUCER", attributes, [carrier], apart=True)


def writing(session_key: str, headers: Sequence[Mapping[str, Any]], *, again: bool) -> Traced:
    """A batch is with its worker.

    Args:
        session_key: ``backend:workspace:session``.
        headers: of its messages, the head's first.
        again: some of it may have been written before.
    """
    attributes: dict[str, Value] = {
        "messaging.operation.type": "process",
        "messaging.message.conversation_id": session_key,
        "messaging.batch.message_count": len(headers),
        "hermes_tasks.again": again,
    }
    return _start("write turns", "CONSUMER", attributes, headers)


def calling(messages: int, deadline: float) -> Traced:
    """A call to Honcho. Where HTTP clients are traced, too, that span is a child of this one.

    Args:
        messages: how many it stores; none: it asks.
        deadline: seconds that it is given.
    """
    attributes: dict[str, Value] = {
        "hermes_tasks.messages": messages,
        "hermes_tasks.deadline": deadline,
    }
    return _start("call Honcho", "CLIENT", attributes)


def carried(found: object) -> dict[str, str]:
    """What of a context is carried on: short texts, whoever wrote it."""
    if not isinstance(found, dict):
        return {}
    return {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, str) and len(value) <= VALUE_LIMIT
    }


def _start(
    name: str,
    kind: Literal["INTERNAL", "PRODUCER", "CONSUMER", "CLIENT"],
    attributes: dict[str, Value],
    carriers: Sequence[Mapping[str, Any]] = (),
    *,
    apart: bool = False,
) -> Traced:
    """Start a span below the current one, or else below the first of ``carriers``; linked to the
    others. ``apart``: what is current in this thread has nothing to do with it.
    """
    # Nobody can have set a provider without having imported this.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return NOTHING
    try:
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            return NOTHING
        from opentelemetry import context, propagate

        parent = context.Context() if apart else context.get_current()
        contexts = [propagate.extract(carrier, context.Context()) for carrier in carriers]
        if contexts and not trace.get_current_span(parent).get_span_context().is_valid:
            parent = contexts.pop(0)
        linked = [trace.get_current_span(one).get_span_context() for one in contexts]
        span = _tracer(provider).start_span(
            name,
            parent,
            kind=trace.SpanKind[kind],
            attributes=attributes,
            links=[trace.Link(one) for one in linked if one.is_valid],
        )
        return Traced(span, trace.set_span_in_context(span, parent))
    except Exception as error:  # noqa: BLE001 - see _failed
        _failed(error)
        return NOTHING


@lru_cache(maxsize=1)
def _tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("hermes_tasks")


def _failed(error: Exception) -> None:
    """A provider, processor or propagator is broken: that must not break what is traced."""
    logger.debug("tracing failed: %s", type(error).__name__)
