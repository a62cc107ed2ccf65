"""What the stand-in has stored, on disk: a stand-in that is killed has it again when it is back.

A line is one change, as JSON: ``work`` (what was done), ``params`` (of the path), ``body``, when
the call ``arrived`` and when it had ``landed`` (seconds of :func:`time.monotonic`), and the
``port`` it came from. It is written before the call is answered: what was answered is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """A file of changes, appended to.

    Args:
        path: the file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)

    def entries(self) -> Iterator[dict[str, Any]]:
        """The changes on file. A last line that a kill cut short was not answered: it goes."""
        self._file.seek(0)
        text = self._file.read()
        whole = text.rfind(b"\n") + 1
        self._file.truncate(whole)
        for line in text[:whole].splitlines():
            yield json.loads(line)

    def write(self, entry: dict[str, Any]) -> None:
        """Add a change."""
        self._file.write(json.dumps(entry).encode() + b"\n")
