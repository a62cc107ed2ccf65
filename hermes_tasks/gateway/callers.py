"""The callers' right of way: the publisher keeps out of their way while they hand turns over.

All threads of a process share one interpreter. What runs in another thread than the caller's makes
the caller wait whenever it comes back from SQLite, up to the interpreter's switch interval (5 ms)
if that other thread does not let go by itself. So the publisher works in slices of less than half a
millisecond, and begins one only when nobody is in the middle of a call, or was a moment ago.
"""

from __future__ import annotations

import time
from types import TracebackType

QUIET_SECONDS = 0.001
"""How long after a call another is expected: several in a row come to an undisturbed end."""

WAIT_SECONDS = 0.000_5
"""How long between two looks whether they have."""

PATIENCE_SECONDS = 0.01
"""How long callers are waited for in all before a batch goes on, however many there are."""

BREATH_SECONDS = 0.000_02
"""How long the interpreter is let go between two slices in any case: long enough for the system to
run a caller who waits for it, which merely letting it go is not."""


SLICE_SECONDS = 0.000_1
"""How long the publisher works before it looks again, where its work is in small pieces."""


class Callers:
    """Who hands a turn over just now; a context manager around each call.

    Of several at once the last to come and the last to leave count: a look costs no lock, and a
    caller who is overlooked waits for one slice.

    Attributes:
        left_at: when the latest call ended, monotonic.
    """

    def __init__(self) -> None:
        self.left_at = 0.0
        self._came_at = 0.0
        self._patience = PATIENCE_SECONDS
        self._slice_began = 0.0

    def __enter__(self) -> None:
        self._came_at = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.left_at = time.monotonic()

    def quiet_for(self, seconds: float) -> bool:
        """Whether nobody has called for so long."""
        return max(self._came_at, self.left_at) + seconds < time.monotonic()

    def be_patient(self) -> None:
        """Callers may be waited for anew, up to :data:`PATIENCE_SECONDS` in all."""
        self._patience = PATIENCE_SECONDS

    def give_way(self) -> None:
        """Called between two slices of work: lets go, until nobody calls or patience is over."""
        time.sleep(BREATH_SECONDS)
        # The look comes last: whoever came in that breath is in the middle of his call now.
        began = now = time.monotonic()
        while self._busy(now) and now - began < self._patience:
            time.sleep(WAIT_SECONDS)
            now = time.monotonic()
        self._patience -= now - began
        self._slice_began = now

    def give_way_in_time(self) -> None:
        """The same between pieces of work that are too small for a breath after each."""
        if time.monotonic() >= self._slice_began + SLICE_SECONDS:
            self.give_way()

    def _busy(self, now: float) -> bool:
        return self._came_at > self.left_at or now < self.left_at + QUIET_SECONDS
