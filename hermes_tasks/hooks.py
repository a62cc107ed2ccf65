"""Told what became of turns: functions of yours, called beside the work and never in its way.

=====================  =====================  ====================================================
signal                 entry point            keyword arguments
=====================  =====================  ====================================================
:data:`turn_written`     ``on_turn_written``    turn_id, session, workspace, backend
:data:`turn_dropped`     ``on_turn_dropped``    the same, and reason, detail
:data:`breaker_changed`  ``on_breaker_change``  gate, state, detail
=====================  =====================  ====================================================

Connect a function to a signal as to one of Celery's own, where its module is imported by the
process that shall call it, or name it as an entry point of the group ``hermes_tasks.hooks``, which
every process finds by itself. Conversation text is in none of the arguments.

Calls are made in a thread of this process, one after the other, each within :data:`LIMIT` seconds.
One that raises or does not return, and one for which there is no room, changes nothing but a
counter of the deployment. So a hook may miss an event, as when a process is killed: what must not
be missed is in the dead letters and counters.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from queue import Full, Queue, SimpleQueue

from celery.signals import worker_process_shutdown
from celery.utils.dispatch import Signal

logger = logging.getLogger(__name__)

#: Entry point group.
GROUP = "hermes_tasks.hooks"

#: Seconds that a call may take. Then it is given up, and its hook is not called again until it
#: has returned.
LIMIT = 30.0

#: Events that may wait in a process.
ROOM = 1_000

#: Seconds that what waits is given when a process ends.
AT_END = 1.0

#: Counts what hooks did in the counters of the deployment: how often, by name.
Count = Callable[[Mapping[str, int]], object]


@dataclass(frozen=True, slots=True)
class Hook:
    """A function to be called for an event.

    Attributes:
        key: the same for the same hook.
        name: of it, for people.
        call: calls it, with the keyword arguments of the event.
    """

    key: Hashable
    name: str
    call: Callable[..., object]


class HookSignal(Signal):
    """A Celery signal that :func:`emit` delivers; its receivers' ``sender`` is ``None``.

    Attributes:
        entry_point: name of the entry points that are its hooks as well.
    """

    def __init__(self, name: str, entry_point: str) -> None:
        super().__init__(name=name)
        self.entry_point = entry_point

    @property
    def is_heard(self) -> bool:
        """Whether there may be a hook. Costs next to nothing where there is none."""
        return bool(self.receivers) or self.entry_point in _entry_points()

    def hooks(self) -> Iterator[Hook]:
        """Who is to be told. An entry point is loaded when it is first called."""
        with self.lock:
            receivers = list(self.receivers)
        for key, receiver in receivers:
            function = receiver() if isinstance(receiver, weakref.ReferenceType) else receiver
            if function is not None:
                name = getattr(function, "__qualname__", type(function).__name__)
                yield Hook(key, name, partial(function, signal=self, sender=None))
        for entry in _entry_points().get(self.entry_point, ()):
            yield Hook(entry, entry.value, partial(_call_entry_point, entry))


#: A turn is stored in Honcho.
turn_written = HookSignal("turn_written", "on_turn_written")
#: A turn was given up, and is a dead letter now.
turn_dropped = HookSignal("turn_dropped", "on_turn_dropped")
#: The breaker of a gate has opened, or closed again.
breaker_changed = HookSignal("breaker_changed", "on_breaker_change")


def emit(signal: HookSignal, count: Count, **event: str) -> None:
    """Have the hooks of a signal called, soon, in a thread of their own. Never raises, never waits.

    Args:
        signal: what happened.
        count: counts hooks that failed, hung, or were not called. It is called in that thread.
        event: the keyword arguments of the hooks.
    """
    try:
        if signal.is_heard:
            _runner().put(partial(_deliver, signal, count, event), count)
    except Exception:  # whatever is wrong with hooks, the work goes on
        logger.exception("Cannot call the hooks of %s", signal.name)


def drain(seconds: float) -> bool:
    """Wait for the calls that this process still has to make; whether they are done."""
    return _running is None or _running.drain(seconds)


# -- the threads ----------------------------------------------------------------------------------


class _Runner:
    """Calls hooks in the order of their events.

    A thread waits for the calls, and another makes them: so one that hangs can be left alone.
    """

    def __init__(self) -> None:
        self.hanging: set[Hashable] = set()
        self.failing: set[Hashable] = set()
        self._uncounted: Counter[str] = Counter()
        self._mutex = threading.Lock()
        self._events: Queue[tuple[Callable[[_Runner], None], Count]] = Queue(ROOM)
        self._caller: _Caller | None = None
        threading.Thread(target=self._run, name="hermes-tasks-hooks", daemon=True).start()

    def put(self, event: Callable[[_Runner], None], count: Count) -> None:
        """Take an event, or leave it and count that."""
        try:
            self._events.put_nowait((event, count))
        except Full:
            self.note("hook_dropped")

    def note(self, what: str) -> None:
        """Count something, when there is time for it."""
        with self._mutex:
            self._uncounted[what] += 1

    def call(self, hook: Hook, event: Mapping[str, str]) -> None:
        """Call a hook, and give the call up when it takes too long."""
        if hook.key in self.hanging:
            self.note("hook_dropped")
            return
        caller = self._caller = self._caller or _Caller()
        done = caller.make(partial(hook.call, **event))
        try:
            error = done.exception(LIMIT)
        except TimeoutError:
            self._caller = None
            self.hanging.add(hook.key)
            caller.end()
            done.add_done_callback(lambda _: self.hanging.discard(hook.key))
            self.note("hook_timeout")
            logger.warning(
                "Hook %s takes more than %g s; it is not called again until it returns",
                hook.name,
                LIMIT,
            )
            return
        if error is None:
            self.failing.discard(hook.key)
            return
        self.note("hook_failed")
        if hook.key not in self.failing:
            self.failing.add(hook.key)
            logger.warning("Hook %s failed", hook.name, exc_info=error)

    def drain(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        events = self._events
        with events.all_tasks_done:
            while events.unfinished_tasks and (left := until - time.monotonic()) > 0:
                events.all_tasks_done.wait(left)
            return not events.unfinished_tasks

    def _run(self) -> None:
        while True:
            event, count = self._events.get()
            try:
                event(self)
                self._tell(count)
            except Exception:  # the thread must outlive every surprise
                logger.exception("Cannot call hooks")
            finally:
                self._events.task_done()

    def _tell(self, count: Count) -> None:
        """Count what is not counted yet; if that fails, with the next event."""
        with self._mutex:
            uncounted, self._uncounted = self._uncounted, Counter()
        if not uncounted:
            return
        try:
            count(uncounted)
        except Exception as error:  # noqa: BLE001 - Redis is away: later
            logger.debug("Cannot count what hooks did (%s)", type(error).__name__)
            with self._mutex:
                self._uncounted += uncounted


class _Caller:
    """A thread that makes calls, one after the other."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], object], Future[None]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="hermes-tasks-hook", daemon=True).start()

    def make(self, call: Callable[[], object]) -> Future[None]:
        done: Future[None] = Future()
        self._calls.put((call, done))
        return done

    def end(self) -> None:
        """Make no more calls."""
        self._calls.put(None)

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            call, done = work
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - SystemExit as well: it is not ours
                done.set_exception(error)
            else:
                done.set_result(None)


def _deliver(signal: HookSignal, count: Count, event: Mapping[str, str], runner: _Runner) -> None:
    for hook in signal.hooks():
        runner.call(hook, event)


# -- entry points ---------------------------------------------------------------------------------


@cache
def _entry_points() -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points of our group, by name; read once, from the files of what is installed."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    try:
        for entry in entry_points(group=GROUP):
            found[entry.name] = (*found.get(entry.name, ()), entry)
    except Exception:  # what somebody else has installed cannot be read
        logger.exception("Cannot look for entry points of %s: none is called", GROUP)
    return found


@cache
def _loaded(entry: EntryPoint) -> Callable[..., object]:
    loaded: Callable[..., object] = entry.load()
    return loaded


def _call_entry_point(entry: EntryPoint, **event: str) -> None:
    _loaded(entry)(**event)


# -- the process ----------------------------------------------------------------------------------

_running: _Runner | None = None
_starting = threading.Lock()


def _runner() -> _Runner:
    """This process's runner, made after any fork."""
    global _running
    if _running is None:
        with _starting:
            if _running is None:
                _running = _Runner()
                atexit.register(drain, AT_END)
    return _running


def _at_end_of_pool_process(**_: object) -> None:
    """A pool process ends without what ``atexit`` knows."""
    drain(AT_END)


worker_process_shutdown.connect(_at_end_of_pool_process)


def _after_fork_in_child() -> None:
    global _running, _starting
    _running, _starting = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
