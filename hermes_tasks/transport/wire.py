"""How a message lies in a session queue: Kombu's message without what says nothing.

``<envelope>\\n<body>``: the envelope is JSON in one line, the body is the text that the task was
called with. So a body is neither quoted into JSON nor put into base64, and who only needs the
envelope (the main process of a worker, which hands the body on) never reads it. Kept out of the
envelope is what Celery's protocol 2 says of nearly every message, and what follows from its queue
and its id: a turn of 1 KB takes 1.4 KB instead of 2.7 KB.

A message of a :class:`~.task.BatchTask` that nobody waits for has nothing else to say than a few
headers. They are its envelope: ``[task, id, argsrepr, origin]``, and a mapping of the others if
there are any. It settles by commit, its body is what lies between the brackets of its positional
arguments, and it has no properties of its own.

A message without a newline is one of Kombu's own form, as older gateways send them.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Collection
from typing import Any, Final

from kombu.serialization import loads, registry
from kombu.transport.virtual import Channel
from kombu.utils import json as kombu_json

JSON: Final = "application/json"
"""The content type of Celery's messages, unless somebody chose another."""

#: What Kombu reads JSON with; its own function makes a new one for every text, which takes longer
#: than to read an envelope.
_DECODER = json.JSONDecoder(object_hook=kombu_json.object_hook)

#: What a header is in nearly every message of Celery's; see "Message Protocol", version 2.
_HEADERS: dict[str, Any] = {
    "lang": "py",
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "parent_id": None,
    "kwargsrepr": "{}",
    "ignore_result": False,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
}
_PROPERTIES: dict[str, Any] = {"delivery_mode": 2, "priority": 0}
#: The header that says how a task settles; those that say it themselves "commit".
SETTLE_HEADER = "session_settle"
#: What a short envelope names, in this order, and what else it says of itself.
_NAMED = ("task", "id", "argsrepr", "origin")
_SAID = {*_NAMED, SETTLE_HEADER}
#: Headers that Celery repeats among the properties.
_REPEATED = ("argsrepr", "kwargsrepr")

_CONTENT = {"content-type": JSON, "content-encoding": "utf-8"}
#: What follows the positional arguments in the body of a task without others, and without links.
_HEAD, _TAIL = "[", ', {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
#: Encodings whose bodies are text, and need no base64 to lie in one.
_TEXT = frozenset({"utf-8", "us-ascii"})


def pack(message: dict[str, Any], queue: str) -> str:
    """A message of Kombu's, for the queue it is put into.

    What :func:`unpack` makes of it is what the message was, but for a delivery tag of Kombu's: a
    claim has a tag of its own.
    """
    headers, properties = message["headers"], message["properties"]
    body = message["body"]
    envelope = {
        name: value
        for name, value in message.items()
        if name not in ("body", "headers", "properties") and _CONTENT.get(name) != value
    }
    if headers.get("task"):
        id = headers.get("id")
        envelope["headers"] = _unusual(headers, _usual_headers(id))
        own = _unusual(properties, {**_PROPERTIES, "correlation_id": id, **_repeated(headers)})
    else:
        own = dict(properties)
        envelope["headers"] = headers
    own.pop("delivery_tag", None)
    if own.get("delivery_info") == {"exchange": "", "routing_key": queue}:
        del own["delivery_info"]
    if own.get("body_encoding") == "base64" and message.get("content-encoding") in _TEXT:
        try:
            body = b64decode(body, validate=True).decode()
        except ValueError:  # it is neither; whoever reads it says so
            pass
        else:
            del own["body_encoding"]
    if body.startswith(_HEAD) and body.endswith(_TAIL):
        envelope["args"] = True
        body = body[len(_HEAD) : -len(_TAIL)]
    line: Any = None
    if not own and envelope.keys() == {"headers", "args"}:
        line = _line_of_batch(envelope["headers"])
    if line is None:
        line = {**envelope, "properties": own}
    return f"{kombu_json.dumps(line, separators=(',', ':'))}\n{body}"


def _usual_headers(id: Any) -> dict[str, Any]:
    # Values that whoever reads a message may change are new ones each time.
    return {**_HEADERS, "timelimit": [None, None], "stamps": {}, "root_id": id}


def _line_of_batch(headers: dict[str, Any]) -> list[Any] | None:
    """The short envelope of a message with these headers, if it can have that."""
    if not headers.keys() >= _SAID or headers[SETTLE_HEADER] != "commit":
        return None
    others = {name: value for name, value in headers.items() if name not in _SAID}
    return [*(headers[name] for name in _NAMED), *([others] if others else [])]


def _message_of_batch(
    task: Any, id: Any, argsrepr: Any, origin: Any, others: Any = None
) -> dict[str, Any]:
    headers = {"task": task, "id": id, "argsrepr": argsrepr, "origin": origin}
    headers |= {SETTLE_HEADER: "commit", **(others or {})}
    return {"headers": headers, "args": True, "properties": {}}


def _unusual(values: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    return {n: value for n, value in values.items() if n not in usual or usual[n] != value}


def _repeated(headers: dict[str, Any]) -> dict[str, Any]:
    return {name: headers[name] for name in _REPEATED if name in headers}


def unpack(text: str, queue: str = "") -> dict[str, Any]:
    """The message that was packed. ``queue``: that it lies in, for who delivers it.

    Raises:
        ValueError: it is none, whatever it is.
    """
    line, newline, body = text.partition("\n")
    try:
        said: Any = _DECODER.decode(line)
        message: dict[str, Any] = _message_of_batch(*said) if isinstance(said, list) else said
        headers, properties = message["headers"], message["properties"]
        if not (isinstance(headers, dict) and isinstance(properties, dict)):
            raise TypeError
        # Celery looks a task up, and announces it, where nothing is caught.
        if not all(isinstance(headers.get(name, ""), str) for name in ("task", "id")):
            raise TypeError
        # Kombu takes them for texts, where nothing is caught either.
        if not all(isinstance(message.get(name), str | None) for name in _CONTENT):
            raise TypeError
        if not newline:
            if "delivery_info" not in properties or not isinstance(message["body"], str):
                raise TypeError
            return message
        message["body"] = f"{_HEAD}{body}{_TAIL}" if message.pop("args", False) else body
        for name, value in _CONTENT.items():
            message.setdefault(name, value)
        properties.setdefault("delivery_info", {"exchange": "", "routing_key": queue})
        if "task" in headers:
            id = headers["id"]
            message["headers"] = headers = {**_usual_headers(id), **headers}
            usual = {**_PROPERTIES, "correlation_id": id, **_repeated(headers)}
            message["properties"] = {**usual, **properties}
    except Exception as error:  # noqa: BLE001 - decoders of types raise whatever they like
        raise ValueError(f"no message: {type(error).__name__}") from None
    return message


def decode_body(
    message: dict[str, Any], accept: Collection[str] | None
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a message of Celery's (protocol 2), as :func:`unpack` gave it.

    ``accept``: the content types that may be decoded; ``None``: all that Kombu does not refuse.

    Raises:
        ValueError, TypeError, KeyError: the body is no JSON, or is not that of a task.
        kombu.exceptions.ContentDisallowed: it is of a type that may not be decoded.
        kombu.exceptions.DecodeError: it is not what its type says.
    """
    content_type = message["content-type"]
    codec = Channel.codecs.get(message["properties"].get("body_encoding"))
    body = codec.decode(message["body"]) if codec else message["body"]
    is_usual = content_type == JSON and registry._decoders.get(JSON) is kombu_json.loads
    if is_usual and JSON in (accept or ()) and isinstance(body, str):
        # Kombu's way to the same takes three times as long, for each turn of a batch.
        try:
            arguments = _DECODER.decode(body)
        except Exception as error:  # noqa: BLE001 - decoders of types raise whatever they like
            raise ValueError(f"no JSON: {type(error).__name__}") from None
    else:
        arguments = loads(body, content_type, message["content-encoding"], accept=accept)
    args, kwargs, _embed = arguments
    return args, kwargs
