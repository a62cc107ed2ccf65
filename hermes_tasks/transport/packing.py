"""Packs commands for Redis without looking at every argument first.

redis-py tests each argument of each command for being a buffer, in Python: a fifth of what a script
with 14 keys costs its caller. None of ours ever is one, and hiredis says so if it meets one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

pack_command: Callable[[tuple[Any, ...]], bytes] | None
try:
    from hiredis import pack_command
except ImportError:  # redis-py then packs in Python
    pack_command = None


class Packer:
    """What a connection of redis-py packs commands with (``command_packer``).

    Args:
        quick: hiredis, which packs text, bytes and numbers.
        usual: that of redis-py, for the commands that need more.
    """

    def __init__(self, quick: Callable[[tuple[Any, ...]], bytes], usual: Any) -> None:
        self._quick = quick
        self._usual = usual

    def pack(self, *command: Any) -> list[bytes]:
        """A command as it goes over the wire, in pieces."""
        name = command[0]
        # A name of two words is two arguments.
        if (b" " if isinstance(name, bytes) else " ") not in name:
            try:
                return [self._quick(command)]
            except TypeError:
                pass
        pieces: list[bytes] = self._usual.pack(*command)
        return pieces


def pack_quickly(connection: Any) -> None:
    """Let a connection of redis-py pack its commands so, where hiredis is installed."""
    if pack_command is not None:
        connection._command_packer = Packer(pack_command, connection._command_packer)
