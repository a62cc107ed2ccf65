"""Does to a cluster what a plan says, and undoes it."""

from __future__ import annotations

import heapq
import itertools
import signal
import time
from collections.abc import Callable, Sequence

from hermes_tasks.gate import Gate, Policy
from hermes_tasks.transport import Names, SessionStore
from hermes_tasks.transport.steering import Steering
from hermes_tasks.turns import DEFAULT_BACKEND, session_key
from tests.chaos.cluster import PREFIX, WELL, WORKSPACE, Cluster, Gateway, Worker
from tests.chaos.history import Fault
from tests.chaos.plan import BY_HAND, HONCHO, REDIS, TROUBLES, Action, Kind

WARM_SECONDS = 0.5
"""What a process that was told to end still gets when its time to be started again has come."""

Step = Callable[[], None]


class Nemesis:
    """Hurts a cluster.

    Attributes:
        faults: what was done, in the order in which it was over.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.faults: list[Fault] = []
        self._cluster = cluster

    def follow(self, plan: Sequence[Action], start: float) -> None:
        """Do everything at its time, counted from ``start`` of :func:`time.monotonic`."""
        order = itertools.count()
        due: list[tuple[float, int, Action, float | None]] = [
            (start + action.at, next(order), action, None) for action in plan
        ]
        heapq.heapify(due)
        while due:
            at, _, action, begun = heapq.heappop(due)
            time.sleep(max(0.0, at - time.monotonic()))
            if begun is None:
                begun = time.monotonic()
                self._begin(action)
                heapq.heappush(due, (start + action.over, next(order), action, begun))
            else:
                self._end(action)
                over = time.monotonic()
                self.faults.append(Fault(str(action), begun, over, action.backend, action.forgets))

    def heal(self) -> None:
        """Undo whatever there may be, and start what has ended."""
        cluster = self._cluster
        for link in cluster.links.values():
            link.heal()
        for worker in cluster.workers.values():
            worker.clock.step(0.0)
            worker.send(signal.SIGCONT)
        cluster.honcho.control(**WELL)

    # -- how -----------------------------------------------------------------------------------

    def _begin(self, action: Action) -> None:
        if ">" in action.target:
            self._begin_on_links(action)
        elif action.kind in TROUBLES:
            self._begin_trouble(action)
        elif action.kind in BY_HAND:
            self._by_hand(action, undo=False)
        elif action.target == REDIS:
            self._begin_on_redis(action)
        elif action.target == HONCHO:
            honcho = self._cluster.honcho
            {Kind.KILL: honcho.stop, Kind.STOP: honcho.pause}[action.kind]()
        else:
            self._begin_on_process(action, self._cluster.processes[action.target])

    def _end(self, action: Action) -> None:
        if ">" in action.target:
            for link in self._cluster.links_of(action.target):
                link.heal()
        elif action.kind in TROUBLES:
            self._cluster.honcho.control(**WELL)
        elif action.kind in BY_HAND:
            self._by_hand(action, undo=True)
        elif action.target == REDIS:
            redis = self._cluster.redis
            if action.kind is Kind.STOP:
                redis.resume()
            else:
                redis.start()
        elif action.target == HONCHO:
            honcho = self._cluster.honcho
            {Kind.KILL: honcho.start, Kind.STOP: honcho.resume}[action.kind]()
            honcho.control(**WELL)
        else:
            self._end_on_process(action, self._cluster.processes[action.target])

    def _begin_on_links(self, action: Action) -> None:
        for link in self._cluster.links_of(action.target):
            if action.kind is Kind.CUT:
                link.cut(refuse=action.lasts > 1)
            elif action.kind is Kind.DELAY:
                link.delay(action.value)
            else:
                link.hole()

    def _begin_trouble(self, action: Action) -> None:
        control, value, times = self._cluster.honcho.control, action.value, action.times
        if action.kind in (Kind.STALL, Kind.LATE):
            for route in ("messages", "conclusions"):
                control(stall=value, times=times, route=route)
        elif action.kind is Kind.AFTER:
            for route in ("messages", "conclusions"):
                control(fail=value, after=True, times=times, route=route)
        elif action.kind is Kind.FAIL:
            control(fail=value, times=times, route="any" if value >= 500 else "messages")
        else:
            control(api_key="another-key")

    def _by_hand(self, action: Action, *, undo: bool) -> None:
        with self._cluster.redis.client() as client:
            store = SessionStore(client, Names(PREFIX))
            if action.kind is Kind.SHUT:
                gate = Gate(store, Policy(), f"{DEFAULT_BACKEND}:{WORKSPACE}")
                gate.close() if undo else gate.open(why="a plan of chaos")
                return
            steering = Steering(store)
            for session in self._cluster.shape.sessions[int(action.value) :: 2]:
                name = session_key(DEFAULT_BACKEND, WORKSPACE, session)
                steering.resume(name) if undo else steering.pause(name)

    def _begin_on_redis(self, action: Action) -> None:
        cluster = self._cluster
        if action.kind is Kind.STOP:
            cluster.redis.pause()
        elif action.kind is Kind.FLUSH:
            with cluster.redis.client() as client:
                client.script_flush()
        elif action.kind is Kind.POWER:
            cluster.lose_power(action.value)
        else:
            cluster.redis.kill()

    def _begin_on_process(self, action: Action, process: Worker | Gateway) -> None:
        if action.kind is Kind.KILL:
            process.kill()
        elif action.kind is Kind.STOP:
            process.send(signal.SIGSTOP)
        elif isinstance(process, Gateway):
            process.send(signal.SIGTERM)
        elif action.kind is Kind.RESTART:
            process.process.send(signal.SIGTERM)
        elif action.kind is Kind.KILL_CHILD:
            process.kill_child()
        else:
            process.clock.step(action.value)

    def _end_on_process(self, action: Action, process: Worker | Gateway) -> None:
        if action.kind is Kind.STOP:
            process.send(signal.SIGCONT)
        elif action.kind is Kind.CLOCK and isinstance(process, Worker):
            process.clock.step(0.0)
        elif action.kind in (Kind.KILL, Kind.RESTART):
            process.end(WARM_SECONDS)
            process.launch()
