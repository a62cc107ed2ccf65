"""What a gateway tells operators of its outbox. One that has nothing to send tells nothing."""

from __future__ import annotations

import time

from hermes_tasks.errors import BrokerUnavailable
from hermes_tasks.gateway.link import FAILURES, Link
from hermes_tasks.gateway.spool import Spool
from hermes_tasks.transport.scripts import script_of

#: Seconds between two reports.
EVERY = 10.0
#: Seconds after which the report of a gateway that tells nothing more is forgotten, with the rows
#: that it may still have.
FORGOTTEN = 86_400.0


class Report:
    """Tells Redis how many turns a spool holds and had to drop, in the publisher's thread."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._name = ""
        self._told: tuple[int, int] = (0, 0)
        self._at = -EVERY

    def tell(self, link: Link) -> None:
        """Tell it, unless that was told a moment ago. That all is sent is told at once.

        What cannot be told now is told the next time.
        """
        rows, dropped = self._spool.pending, self._spool.dropped
        emptied = self._told[0] > 0 and rows == 0
        if time.monotonic() - self._at < EVERY and not emptied:
            return
        own, *adopted = self._spool.incarnations
        # A process has the name of its first outbox: whoever adopts that knows whose rows it has.
        self._name = self._name or own
        if not self._name:
            return
        try:
            store = link.channel().sessions
            script_of(__package__, "report")(
                store.client,
                [store.names.gateways, store.names.stats],
                [self._name, rows, dropped, int(FORGOTTEN * 1000), *adopted],
            )
        except (BrokerUnavailable, *FAILURES):
            return
        self._told, self._at = (rows, dropped), time.monotonic()
