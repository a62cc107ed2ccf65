"""Finding a text where it should not be: as it is, or as base64 has it at any of its places."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import redis


class Marker:
    """A text that is nowhere else, and the forms in which it would be stored or shown."""

    def __init__(self) -> None:
        self.text = f"marker{uuid.uuid4().hex}"
        raw = self.text.encode()
        # Base64 has three forms of a text, by its place among groups of three bytes; the characters
        # at either end depend on its neighbours.
        self._forms = [raw]
        for offset in range(3):
            whole = base64.b64encode(b"\0" * offset + raw)
            self._forms.append(whole[4:-4])

    def is_in(self, data: str | bytes) -> bool:
        """Whether it can be read in ``data``."""
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        return any(form in data for form in self._forms)

    def keys_with_it(self, client: redis.Redis) -> set[str]:
        """Names of the Redis keys that hold it, or whose name does."""
        keys: Any = client.keys()
        return {k.decode() for k in keys if self.is_in(k) or self.is_in(held(client, k))}

    def files_with_it(self, paths: Iterable[Path]) -> set[str]:
        """Names of the files among these, and below the directories among these, that hold it."""
        files = [file for path in paths for file in (path, *path.rglob("*")) if file.is_file()]
        return {file.name for file in files if self.is_in(file.read_bytes())}


def held(client: redis.Redis, key: bytes) -> bytes:
    """All that a key holds, as one text."""
    read: dict[bytes, Any] = {
        b"string": lambda: client.get(key),
        b"hash": lambda: client.hgetall(key),
        b"list": lambda: client.lrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1, withscores=True),
        b"stream": lambda: client.xrange(key),
        b"none": lambda: None,
    }
    kind: Any = client.type(key)
    return repr(read[kind]()).encode()
