"""Messages made from one that Celery has made, which differ from it in nothing but their turn.

Celery takes 100 µs and more to make a message: it looks for a route, options and headers, of which
all are the same for every turn. Callers of :class:`~.sync.TurnSync` may have to wait for the
interpreter as long. So the first message of a gateway is Celery's, and what it says beside its turn
is kept for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from celery.signals import after_task_publish, before_task_publish
from kombu.utils.json import dumps, loads

from hermes_tasks.sealing import Sealed
from hermes_tasks.transport import Push
from hermes_tasks.turns import Memory


@dataclass(frozen=True, slots=True)
class Stencil:
    """What the messages of all turns have in common.

    Attributes:
        before: the beginning of an envelope, up to the turn's id.
        after: what follows on the description of the turn's arguments.
        options: of the push.
    """

    before: str
    after: str
    options: dict[str, Any]

    @classmethod
    def of(cls, push: Push) -> Self | None:
        """That of a message whose only headers are Celery's; ``None``: there can be none."""
        envelope = loads(push.message.partition("\n")[0])
        headers = envelope.get("headers", {})
        id, shown = headers.pop("id", None), headers.pop("argsrepr", None)
        if id != push.options["id"] or shown is None or not envelope.pop("args", False):
            return None
        rest = dumps(envelope, separators=(",", ":"))
        # Whatever else depends on the turn is not understood here.
        if id in rest or push.session in rest or not rest.startswith('{"headers":{'):
            return None
        before, after = rest[:12], rest[12:]
        return cls(f'{before}"id":', f'{after[:-1]},"args":true}}', push.options)

    @property
    def is_enough(self) -> bool:
        """Whether nobody in this process wants to know when Celery makes a message."""
        return not (before_task_publish.receivers or after_task_publish.receivers)

    def message(self, session: str, turn: Memory | Sealed, text: str, **options: Any) -> Push:
        """The message of a turn.

        Args:
            session: the key of its session.
            turn: what it is.
            text: the same as JSON.
            options: of the push, where they differ.
        """
        shown = dumps(f"({turn.describe()})")
        envelope = f'{self.before}"{turn.turn_id}","argsrepr":{shown},{self.after}'
        return Push(
            session,
            f"{envelope}\n[{text}]",
            {**self.options, "id": turn.turn_id, "size": turn.size, **options},
        )
