"""A gateway as a process: it makes turns up, hands them over, and writes down what it was told.

Before each turn a line says that it is offered, after it another that it was accepted: a process
that is killed between the two has a turn of which nobody can say whether it was accepted. Each
text begins with its turn's id and its place in it, by which it is known again wherever it lands.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

from hermes_tasks.gateway.sync import TurnSync

WORDS = "All work and no play makes a queue a dull place to wait in. "
LARGE = 120
"""Messages of a large turn: more than one call takes."""


class Receipts:
    """A file of lines that a kill cannot take back."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self.turns = path.read_bytes().count(b'"session"')

    def write(self, **line: object) -> None:
        """Add a line."""
        line["at"] = time.monotonic()
        os.write(self._file, json.dumps(line).encode() + b"\n")


def offer(
    sync: TurnSync, receipts: Receipts, chance: random.Random, turn: str, where: str, share: float
) -> None:
    """Hand a turn over or, for so large a share of them, a conclusion."""
    size = chance.choice([1, 2, 2, 2, 3]) if chance.random() < 0.985 else LARGE
    concludes = chance.random() < share
    receipts.write(turn=turn, session=where, parts=1 if concludes else size)
    if concludes:
        sync.conclude(
            session=where,
            observer="agent",
            observed="user",
            content=f"{turn}#0 {WORDS}",
            turn_id=turn,
        )
    else:
        messages = [
            {"peer": "user" if part % 2 == 0 else "agent", "content": f"{turn}#{part} {WORDS}"}
            for part in range(size)
        ]
        sync.sync_turn(session=where, messages=messages, turn_id=turn)
    receipts.write(turn=turn)


def main() -> None:
    """Offer turns until a file is there that says to stop, and stay until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--sessions", required=True, help="names, separated by commas")
    parser.add_argument("--rate", type=float, required=True, help="turns a second")
    parser.add_argument("--conclusions", type=float, required=True, help="share of the turns")
    parser.add_argument("--until", type=Path, required=True, help="no more turns when it is there")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--receipts", type=Path, required=True)
    options = parser.parse_args()

    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    receipts = Receipts(options.receipts)
    chance = random.Random(f"{options.seed} {options.name} {receipts.turns}")
    sessions = options.sessions.split(",")
    with TurnSync() as sync:
        number = receipts.turns
        while not over.wait(chance.expovariate(options.rate)):
            if options.until.exists():
                over.wait()
                break
            # The first are busy, the last hardly: a session has many turns waiting, or none.
            session = sessions[int(len(sessions) * chance.random() ** 2)]
            turn = f"{options.name}-{number}"
            offer(sync, receipts, chance, turn, session, options.conclusions)
            number += 1


if __name__ == "__main__":
    main()
