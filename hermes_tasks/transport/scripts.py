"""The Lua scripts beside this file, loaded once and run by their SHA1.

A script's text is part of its name in Redis, so workers of two versions run side by side during a
rolling deploy, each its own scripts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError


class Script:
    """One Lua script: its text and the SHA1 Redis knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: redis.Redis, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run it. After a ``SCRIPT FLUSH`` or on a new server the text is sent once more."""
        try:
            return client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.eval(self.text, len(keys), *keys, *args)


@cache
def session_script(name: str) -> Script:
    """The script ``name.lua`` that works on one session: ``common.lua`` goes in front of it."""
    return Script(_text("common") + _text(name))


@cache
def script(name: str) -> Script:
    """The script ``name.lua`` that stands alone."""
    return Script(_text(name))


@cache
def script_of(package: str, *names: str, on_session: bool = False) -> Script:
    """A script of a package that builds on this one: its texts ``names``, one behind the other.

    ``on_session``: it works on one session, and ``common.lua`` goes in front of all.
    """
    texts = [_text(name, package) for name in names]
    return Script("".join([_text("common"), *texts] if on_session else texts))


def _text(name: str, package: str = __package__) -> str:
    return files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8")
