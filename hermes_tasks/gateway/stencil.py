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
        between: what follows on that, up to the description of the turn's arguments.
        after: what follows on it.
        options: of the push.
    """

    before: str
    between: str
    after: str
    options: dict[str, Any]

    @classmethod
    def of(cls, push: Push) -> Self | None:
        """That of a message whose only headers are Celery's; ``None``: there can be none."""
        envelope = loads(push.message.partition("\n")[0])
        if isinstance(envelope, list):
            task, id, shown, *rest = envelope
            texts = f"[{_json(task)},", ",", f",{_json(rest)[1:]}"
        else:
            headers = envelope.get("headers", {})
            id, shown = headers.pop("id", None), headers.pop("argsrepr", None)
            if shown is None or not headers or not envelope.pop("args", False):
                return None
            others = _json({"headers": headers, "args": True, **envelope})
            texts = '{"headers":{"id":', ',"argsrepr":', f",{others[12:]}"
        # Whatever else depends on the turn is not understood here.
        if id != push.options["id"] or any(id in text or push.session in text for text in texts):
            return None
        return cls(*texts, push.options)

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
        shown = _json(f"({turn.describe()})")
        envelope = f'{self.before}"{turn.turn_id}"{self.between}{shown}{self.after}'
        return Push(
            session,
            f"{envelope}\n[{text}]",
            {**self.options, "id": turn.turn_id, "size": turn.size, **options},
        )


def _json(value: Any) -> str:
    text: str = dumps(value, separators=(",", ":"))
    return text
