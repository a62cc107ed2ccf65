"""Reads of Redis for everybody who looks at a page: one at a time, and one for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from hermes_tasks.errors import BrokerUnavailable

if TYPE_CHECKING:
    from hermes_tasks.ops.view import View
    from hermes_tasks.transport import SessionStore

T = TypeVar("T")

#: Seconds for which an answer, or that there is none, is everybody's.
KEPT_SECONDS = 1.0


class Reader:
    """Answers that are at most a second old, read in a thread that Flower's loop never waits for.

    Redis may take seconds to answer, or never do so: the thread is one of our own, so that Flower's
    other work does not queue up behind it. Everything but the reading itself happens on the loop.

    Args:
        view: of the deployment.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sessions")
        self._answers: dict[Hashable, tuple[float, asyncio.Future[Any]]] = {}
        self._failed: tuple[float, BrokerUnavailable] | None = None

    async def read(self, key: Hashable, question: Callable[[SessionStore], T]) -> T:
        """The answer to a question, which is the same for everybody who gives this key.

        Raises:
            BrokerUnavailable: Redis does not answer, or refuses us.
        """
        now = time.monotonic()
        self._forget(now)
        if key not in self._answers:
            if self._failed is not None and now - self._failed[0] < KEPT_SECONDS:
                raise self._failed[1]
            task = asyncio.get_running_loop().run_in_executor(
                self._thread, self._view.ask, question
            )
            task.add_done_callback(lambda done: self._keep(key, done))
            self._answers[key] = (float("inf"), task)
        # A viewer who leaves takes the answer from nobody else.
        answer: T = await asyncio.shield(self._answers[key][1])
        return answer

    def _keep(self, key: Hashable, done: asyncio.Future[Any]) -> None:
        now = time.monotonic()
        error = None if done.cancelled() else done.exception()
        if isinstance(error, BrokerUnavailable):
            self._failed = (now, error)
        self._answers[key] = (now + KEPT_SECONDS, done)

    def _forget(self, now: float) -> None:
        for key in [key for key, (until, _) in self._answers.items() if until < now]:
            del self._answers[key]
