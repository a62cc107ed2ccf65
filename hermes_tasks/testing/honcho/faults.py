"""The bad days of a service: what the stand-in can be told to do to its callers."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

FOREVER = -1
WRITES = ("messages", "conclusions")
ROUTES = ("workspaces", "peers", "sessions", *WRITES, "list", "recall")
"""``list`` are the questions, for messages and for conclusions; ``recall`` what a host reads."""

MODES = ("fail", "stall", "drip", "cut")


@dataclass(slots=True)
class Fault:
    """Something that happens to the next calls of a route.

    Attributes:
        mode: ``fail``, ``stall``, ``drip`` or ``cut``.
        value: status to fail with; seconds to stall; seconds between the bytes of a dripped answer.
        route: one of :data:`ROUTES`, or ``any``.
        after: it happens after the call has done its work, not instead of it (``fail``, ``cut``) or
            before it (``stall``).
        times: calls it still happens to, or :data:`FOREVER`.
        skip: calls that are let through first.
        retry_after: the header of that name: seconds, or a date in HTTP's form.
    """

    mode: str
    value: float
    route: str = "messages"
    after: bool = False
    times: int = 1
    skip: int = 0
    retry_after: str | None = None


class Faults:
    """Everything the stand-in was told, by ``POST /_control`` with a JSON object of these keys.

    - ``fail``: status; ``stall``: seconds; ``drip``: seconds between bytes; ``cut``: true (the
      connection is reset). One of them makes a :class:`Fault` with ``route`` (``"messages"``),
      ``after`` (false), ``times`` (1; ``-1`` for ever), ``skip`` (0) and ``retry_after``.
      They queue up: each call meets the oldest that is meant for its route.
    - ``failure_rate``: share of calls to :data:`WRITES` that fail at random, with one of
      ``failure_statuses`` (500, 502, 503, 504), before or after the work as if by chance.
    - ``latency``: seconds each call takes, or ``{"median": seconds, "sigma": 1.0}`` for a lognormal
      one. It is waited before the work.
    - ``rate_limit``: calls a second to :data:`WRITES` that are taken (``null``: all); the others
      get 429 with ``retry_after``.
    - ``api_key``: the only bearer token that is let in (others get 401); ``null``: all are.
    - ``seed``: makes what is left to chance repeatable.
    - ``reset``: true forgets everything told so far, before the other keys are read.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._queue: list[Fault] = []
        self._rate = 0.0
        self._statuses = [500, 502, 503, 504]
        self._median = self._sigma = 0.0
        self._limit: int | None = None
        self._retry_after: str | None = None
        self._taken: deque[float] = deque()
        self._random = random.Random()
        self.api_key: str | None = None

    def tell(self, orders: dict[str, Any]) -> None:
        """Take orders.

        Raises:
            ValueError: a key or value is not understood; nothing has changed then.
        """
        orders = dict(orders)
        fresh = orders.pop("reset", False)
        fault = _fault(orders)
        unknown = set(orders) - {
            *("failure_rate", "failure_statuses", "latency", "rate_limit", "retry_after"),
            *("api_key", "seed"),
        }
        if unknown:
            raise ValueError(f"not understood: {', '.join(sorted(unknown))}")
        latency = orders.get("latency", 0.0)
        median, sigma = (
            (float(latency["median"]), float(latency.get("sigma", 1.0)))
            if isinstance(latency, dict)
            else (float(latency or 0.0), 0.0)
        )
        if fresh:
            self._reset()
        if fault:
            self._queue.append(fault)
        if "latency" in orders:
            self._median, self._sigma = median, sigma
        self._rate = orders.get("failure_rate", self._rate)
        self._statuses = orders.get("failure_statuses", self._statuses)
        self._limit = orders.get("rate_limit", self._limit)
        if "retry_after" in orders:
            self._retry_after = _header(orders["retry_after"])
        self.api_key = orders.get("api_key", self.api_key)
        if "seed" in orders:
            self._random.seed(orders["seed"])

    def latency(self) -> float:
        """Seconds the next call takes."""
        if not self._sigma:
            return self._median
        return self._random.lognormvariate(math.log(self._median), self._sigma)

    def next(self, route: str) -> Fault | None:
        """What happens to the next call of a route."""
        for fault in self._queue:
            if fault.route not in (route, "any"):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if fault.times > 0:
                fault.times -= 1
            if fault.times == 0:
                self._queue.remove(fault)
            return fault
        if route not in WRITES:
            return None
        if self._limit is not None and not self._take():
            return Fault("fail", 429, retry_after=self._retry_after)
        if self._rate and self._random.random() < self._rate:
            status = self._random.choice(self._statuses)
            return Fault("fail", status, after=self._random.random() < 0.5)
        return None

    def _take(self) -> bool:
        """Whether a call is within the limit of the last second."""
        now = time.monotonic()
        while self._taken and self._taken[0] <= now - 1.0:
            self._taken.popleft()
        if self._limit is not None and len(self._taken) >= self._limit:
            return False
        self._taken.append(now)
        return True


def _fault(orders: dict[str, Any]) -> Fault | None:
    """The fault that orders ask for; its keys are taken out of them."""
    modes = [mode for mode in MODES if mode in orders]
    if not modes:
        return None
    if len(modes) > 1:
        raise ValueError(f"one at a time: {', '.join(modes)}")
    fault = Fault(modes[0], float(orders.pop(modes[0])))
    fault.route = orders.pop("route", fault.route)
    if fault.route not in (*ROUTES, "any"):
        raise ValueError(f"route is one of {', '.join(ROUTES)}, any")
    fault.after = bool(orders.pop("after", False))
    fault.times = int(orders.pop("times", 1))
    fault.skip = int(orders.pop("skip", 0))
    fault.retry_after = _header(orders.pop("retry_after", None))
    return fault


def _header(value: Any) -> str | None:
    return None if value is None else str(value)
