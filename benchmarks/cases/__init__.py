"""The measurements: one module each.

It has ``TITLE`` and ``ABOUT``, which a page says of it, and ``run(plan)``, which yields its tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers import ALL, MAIN, Peer
from benchmarks.postgres import PostgresServer


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        runs: of each contender.
        full: everything, however long it takes.
    """

    runs: int = 5
    full: bool = False

    @property
    def every(self) -> tuple[Peer, ...]:
        """All contenders that can run here: procrastinate only where PostgreSQL is installed."""
        postgres = PostgresServer.programs() is not None
        return tuple(peer for peer in ALL if peer.store != "postgres" or postgres)

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The contenders of a case that takes long."""
        return self.every if self.full else MAIN
