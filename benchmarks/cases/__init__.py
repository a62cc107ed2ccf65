"""The measurements: one module each, with ``run(plan)`` that yields its tables."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers import ALL, Peer
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
    def peers(self) -> tuple[Peer, ...]:
        """The contenders that can run here."""
        postgres = PostgresServer.programs() is not None
        return tuple(peer for peer in ALL if peer.store != "postgres" or postgres)
