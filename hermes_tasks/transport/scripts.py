"""The Lua scripts beside this file, loaded once and run by their SHA1.

A script's text is part of its name in Redis, so workers of two versions run side by side during a
rolling deploy, each its own scripts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError, ResponseError


class Script:
    """One Lua script: its text and the SHA1 Redis knows it by.

    Args:
        text: what it does.
        reads: it only reads. Redis then refuses it every change, and lets a user run it who may
            change nothing.

    Attributes:
        evalsha: the command that runs it by its SHA1.
        eval: the command that runs it by its text.
    """

    def __init__(self, text: str, *, reads: bool = False) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.evalsha, self.eval = ("EVALSHA_RO", "EVAL_RO") if reads else ("EVALSHA", "EVAL")

    def __call__(self, client: redis.Redis, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run it. After a ``SCRIPT FLUSH`` or on a new server the text is sent once more."""
        execute: Any = client.execute_command
        try:
            return execute(self.evalsha, self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return execute(self.eval, self.text, len(keys), *keys, *args)


def run_all(
    client: redis.Redis, script: Script, calls: Iterable[tuple[Sequence[str], Sequence[Any]]]
) -> list[Any]:
    """Run a script for each of these keys and arguments in one round trip; the answers.

    Raises:
        ResponseError: the first that one of them was answered with; all of them were run.
    """
    calls = list(calls)
    answers = try_all(client, script, calls)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def try_all(
    client: redis.Redis, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]
) -> list[Any]:
    """As :func:`run_all`, but an error is the answer of its call."""
    if not calls:
        return []
    pipe = client.pipeline(transaction=False)
    for keys, arguments in calls:
        queue: Any = pipe.execute_command
        queue(script.evalsha, script.sha, len(keys), *keys, *arguments)
    answers: list[Any] = pipe.execute(raise_on_error=False)
    for place, (keys, arguments) in enumerate(calls):
        # A pipeline sends no text, so a server that does not know the script is told it here.
        if isinstance(answers[place], NoScriptError):
            try:
                answers[place] = script(client, keys, arguments)
            except ResponseError as error:
                answers[place] = error
    return answers


@cache
def session_script(name: str, *, reads: bool = False) -> Script:
    """The script ``name.lua`` that works on one session: ``common.lua`` goes in front of it."""
    return Script(_text("common") + _text(name), reads=reads)


@cache
def exchange_script() -> Script:
    """``exchange.lua``, with those it is made of in front as functions of their arguments."""
    parts = "".join(
        f"local function {name}(KEYS, ARGV)\n{_text(name)}end\n" for name in ("complete", "claim")
    )
    return Script(_text("common") + parts + _text("exchange"))


@cache
def script(name: str, *, reads: bool = False) -> Script:
    """The script ``name.lua`` that stands alone."""
    return Script(_text(name), reads=reads)


@cache
def script_of(package: str, *names: str, on_session: bool = False, reads: bool = False) -> Script:
    """A script of a package that builds on this one: its texts ``names``, one behind the other.

    ``on_session``: it works on one session, and ``common.lua`` goes in front of all.
    """
    texts = [_text(name, package) for name in names]
    return Script("".join([_text("common"), *texts] if on_session else texts), reads=reads)


def _text(name: str, package: str = __package__) -> str:
    return files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8")
