"""``python -m benchmarks.provider [--full]``: the host's bundled Honcho provider, and this one.

Both are loaded by a real hermes-agent, each case in a process of its own, and meet the same bad day
of a stand-in for Honcho; ours with a real broker and a real worker. When the host has left, Honcho
is well again, and what it stores is counted. Times are a tenth of real ones, but for what the
bundled provider has hard-wired; ``--full`` takes them as they are, and some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hermes_tasks.config import environment_variable
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.waiting import wait_until
from hermes_tasks.testing.workers import WorkerProcess

BUNDLED, OURS = "honcho", "honcho_tasks"
FOREVER = 3_600.0
TIMEOUT = 30.0
"""The host's default time-out for Honcho, in seconds, and the worker's ceiling."""

LANDING = 15.0
AT_ONCE = 4
"""Cases that run side by side: they mostly wait."""

ROUNDS, TURNS, PACE = 3, 200, 0.025
"""Of the measurement of :func:`latency`; the pace in seconds. The round that was disturbed least
counts. A session that is not written has room for 320 turns."""

BURST = 51
COMPANY, OTHERS = 20, 40
"""Turns of other sessions that come before each that is measured, and how many sessions: the
publisher has work all the time."""

LATENCIES = {
    "well": "Redis well",
    "dead": "Redis dead",
    "black hole": "Redis a black hole",
    "burst": f"Redis well, {BURST} at once",
    "backlog": "Redis well, a backlog",
}


@dataclass(slots=True)
class Outcome:
    """What a case did to a provider. Times in seconds.

    Attributes:
        expected, stored, twice, in_order: messages, and whether each session has them in order.
        sync: the longest ``sync_turn``.
        end: ``on_session_end`` and ``shutdown_all`` together.
        tools: the longest tool call, where there was one.
    """

    expected: int = 0
    stored: int = 0
    twice: int = 0
    in_order: bool = True
    sync: float = 0.0
    end: float = 0.0
    tools: float | None = None

    @property
    def is_good(self) -> bool:
        """Whether each turn is stored once and in order."""
        return self.stored == self.expected and not self.twice and self.in_order

    def __str__(self) -> str:
        wrong = f", {self.twice} twice" if self.twice else ""
        wrong += "" if self.in_order else ", out of order"
        tools = "" if self.tools is None else f", tool {_time(self.tools)}"
        count = f"{self.stored} of {self.expected}{wrong}"
        return f"{count}; sync {_time(self.sync)}, end {_time(self.end)}{tools}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


# -- one case, in a process of its own -------------------------------------------------------


@dataclass(slots=True)
class Day:
    """A provider in the host, Honcho, and what was said.

    Attributes:
        scale: of all times.
        outcome: what is measured meanwhile.
    """

    honcho: HonchoServer
    provider: str
    scale: float
    outcome: Outcome = field(default_factory=Outcome)
    manager: Any = None
    loaded: Any = None
    session: str = "s1"
    said: dict[str, list[str]] = field(default_factory=dict)

    def begin(self, *, well: bool = True) -> None:
        """Begin a session of the host; if Honcho is ``well``, wait until the provider is ready."""
        from agent.memory_manager import MemoryManager
        from plugins.memory import load_memory_provider

        self.manager, self.loaded = MemoryManager(), load_memory_provider(self.provider)
        self.manager.add_provider(self.loaded)
        self.manager.initialize_all(self.session, platform="cli", agent_context="primary")
        reader = self.loaded.bundled if self.provider == OURS else self.loaded
        if well:
            wait_until(lambda: reader._session_initialized, 10, "the bundled provider to begin")

    def say(self, *numbers: int, text: str = "") -> None:
        for number in numbers:
            begun = time.perf_counter()
            self.loaded.sync_turn(f"u{number} {text}", f"a{number}", session_id=self.session)
            self.outcome.sync = max(self.outcome.sync, time.perf_counter() - begun)
            self.said.setdefault(self.session, []).extend((f"u{number}", f"a{number}"))
            # Nobody speaks faster; and the bundled provider's thread can begin.
            time.sleep(0.05)

    def call(self, tool: str, **arguments: Any) -> None:
        begun = time.perf_counter()
        self.manager.handle_tool_call(tool, arguments)
        self.outcome.tools = max(self.outcome.tools or 0.0, time.perf_counter() - begun)

    def leave(self) -> None:
        """As the host's command line does."""
        self.manager.flush_pending(timeout=10)
        begun = time.perf_counter()
        self.manager.on_session_end([])
        self.manager.shutdown_all()
        self.outcome.end = time.perf_counter() - begun

    def count(self) -> None:
        """Honcho is well again: see what it stores, once nothing more comes."""
        self.honcho.control(reset=True)
        expected = sum(map(len, self.said.values()))
        if self.provider == OURS:
            try:
                wait_until(
                    lambda: len(self.honcho.log()) >= expected,
                    4 * (TIMEOUT + LANDING) * self.scale + 20,
                    "the turns",
                )
            except TimeoutError:
                pass  # the table will say so
        # What was on its way lands, or does not.
        time.sleep(1.0 + 12.0 * self.scale)
        outcome = self.outcome
        outcome.expected = expected
        for session, said in self.said.items():
            log = [message["content"].split()[0] for message in self.honcho.log(session)]
            once = [word for place, word in enumerate(log) if word not in log[:place]]
            outcome.stored += len(set(log) & set(said))
            outcome.twice += len(log) - len(once)
            outcome.in_order &= log == sorted(log, key=lambda word: (int(word[1:]), word < "u"))


def stalls(day: Day) -> None:
    """POST stalls, then commits; 4 turns"""
    day.begin()
    day.honcho.control(stall=TIMEOUT * day.scale * 1.1, times=-1)
    day.say(1, 2, 3, 4)
    day.leave()


def never(day: Day) -> None:
    """POST never answers; the host exits"""
    day.begin()
    day.honcho.control(stall=FOREVER, times=-1)
    day.say(1, 2)
    day.leave()


def hangs(day: Day) -> None:
    """everything hangs; search, conclude"""
    day.begin()
    day.say(1)
    time.sleep(1)
    day.honcho.control(stall=FOREVER, route="any", times=-1)
    day.call("honcho_search", query="tea")
    day.call("honcho_conclude", conclusion="likes tea")
    day.honcho.control(reset=True)
    day.leave()


def overloaded(day: Day) -> None:
    """503 until the host exits; 5 turns"""
    day.begin()
    day.honcho.control(fail=503, times=-1)
    day.say(1, 2, 3, 4, 5)
    day.leave()


def down(day: Day) -> None:
    """down at the start, up after 3 of 6 turns"""
    day.honcho.stop()
    day.begin(well=False)
    day.say(1, 2, 3)
    day.honcho.start()
    day.say(4)
    time.sleep(1)
    day.say(5, 6)
    day.leave()


def slow(day: Day) -> None:
    """first POST slow; 3 turns"""
    day.begin()
    day.honcho.control(stall=12 * day.scale + 2)
    day.say(1, 2, 3)
    day.leave()


def commits_502(day: Day) -> None:
    """commits, then 502"""
    day.begin()
    day.honcho.control(fail=502, after=True)
    day.say(1, 2)
    day.leave()


def late(day: Day) -> None:
    """commits after the client's time-out"""
    day.begin()
    day.honcho.control(stall=TIMEOUT * day.scale * 1.5, times=3)
    day.say(1)
    day.leave()


def refused(day: Day) -> None:
    """one message that is a 422"""
    day.begin()
    day.say(1, text="<|endoftext|>")
    day.say(2, 3)
    day.leave()


def backlog(day: Day) -> None:
    """a backlog of 51 turns"""
    day.begin()
    # Not a failure that the SDK tries again: 51 times that would take minutes.
    day.honcho.control(fail=401, times=-1)
    day.say(*range(51))
    day.honcho.control(reset=True)
    day.leave()


def new_session(day: Day) -> None:
    """/new"""
    day.begin()
    day.say(1)
    time.sleep(1)
    day.manager.on_session_switch("s2", parent_session_id="s1", reset=True, reason="new_session")
    day.session = "s2"
    day.say(2)
    day.leave()


CASES: dict[str, Callable[[Day], None]] = {
    case.__name__: case
    for case in (
        *(stalls, never, hangs, overloaded, down, slow, commits_502, late, refused, backlog),
        new_session,
    )
}


@contextmanager
def surroundings(provider: str, scale: float, *, broker_url: str = "") -> Iterator[HonchoServer]:
    """A home of the host, Honcho, and for ours a broker and a worker."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        honcho = stack.enter_context(HonchoServer())
        os.environ.update(HERMES_HOME=str(home), HOME=str(home), XDG_STATE_HOME=str(home))
        (home / "honcho.json").write_text(
            json.dumps(
                {
                    "baseUrl": honcho.url,
                    "workspace": "w",
                    "peerName": "igor",
                    "sessionStrategy": "per-session",
                    "timeout": TIMEOUT * scale,
                }
            )
        )
        if provider == OURS:
            _install(home)
            broker = stack.enter_context(EmbeddedValkey())
            os.environ[environment_variable("broker_url")] = broker_url or broker.url
            worker = WorkerProcess(
                ["-P", "threads", "-c", "4", "--without-mingle"],
                env={
                    "HONCHO_URL": honcho.url,
                    environment_variable("broker_url"): broker.url,
                    environment_variable("timeout_ceiling"): str(TIMEOUT * scale),
                    environment_variable("landing_seconds"): str(LANDING * scale),
                    environment_variable("breaker_probe_seconds"): str(max(0.5, 10 * scale)),
                },
                log=home / "worker.log",
            )
            stack.callback(worker.close)
            worker.start()
        yield honcho


def _install(home: Path) -> None:
    from hermes_tasks.cli import main as hermes_tasks

    arguments = ["install-plugin", "--hermes-home", str(home)]
    with tempfile.TemporaryFile("w") as nowhere:
        out, sys.stdout = sys.stdout, nowhere
        try:
            hermes_tasks(arguments, standalone_mode=False)
        finally:
            sys.stdout = out


def one(case: str, provider: str, scale: float) -> Outcome:
    """Run one case with one provider, in this process."""
    # The bundled provider waits 5 s whatever the time-out is: a slow call must be slower.
    scale = max(scale, 0.3) if case == "slow" else scale
    with surroundings(provider, scale) as honcho:
        day = Day(honcho, provider, scale)
        CASES[case](day)
        day.count()
        return day.outcome


def latency(broker: str) -> list[float]:
    """How long ``sync_turn`` of ours takes while Honcho hangs, in ms: p50, p99, longest.

    Args:
        broker: one of :data:`LATENCIES`.
    """
    import socket

    with socket.socket() as hole, ExitStack() as stack:
        hole.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{hole.getsockname()[1]}/0"
        if broker == "black hole":
            hole.listen(1_000)
        honcho = stack.enter_context(
            surroundings(OURS, 0.1, broker_url=url if broker in ("dead", "black hole") else "")
        )
        day = Day(honcho, OURS, 0.1)
        day.begin()
        honcho.control(stall=FOREVER, route="any", times=-1)
        rounds = []
        for session in range(ROUNDS):
            day.manager.on_session_switch(f"s{session}", reset=True)
            took = []
            for number in range(TURNS):
                if broker == "backlog":
                    for other in range(COMPANY):
                        name = f"other{(number * COMPANY + other) % OTHERS}"
                        said = [{"peer": "igor", "content": "a" * 1_000}]
                        day.loaded._sync.sync_turn(session=name, messages=said)
                    time.sleep(PACE / 2)
                begun = time.perf_counter()
                day.loaded.sync_turn(f"u{number}", "a" * 1_000)
                took.append((time.perf_counter() - begun) * 1000)
                if broker != "burst" or number % BURST == BURST - 1:
                    time.sleep(PACE if broker != "burst" else 20 * PACE)
            took.sort()
            rounds.append([took[TURNS * 99 // 100], took[TURNS // 2], took[-1]])
        p99, p50, longest = min(rounds)
        return [p50, p99, longest]


# -- all of them -----------------------------------------------------------------------------


def run(scale: float) -> tuple[dict[str, tuple[Outcome, Outcome]], dict[str, list[float]]]:
    """Every case with both providers, and the latency of ours with every kind of broker."""
    jobs = [(case, provider) for case in CASES for provider in (BUNDLED, OURS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # The longest first.
        done = dict(
            zip(jobs, pool.map(lambda job: Outcome(**_child(*job, str(scale))), jobs), strict=True)
        )
    outcomes = {case: (done[case, BUNDLED], done[case, OURS]) for case in CASES}
    # One after another, and beside nothing: these are fractions of a millisecond.
    return outcomes, {broker: _child("latency", broker, "")["took"] for broker in LATENCIES}


def _child(*arguments: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.provider", "--child", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{ran.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return answer


def table(scale: float) -> bool:
    """Print what :func:`run` measures; whether ours met its bars."""
    print(f"\nThe host's bundled Honcho provider, and this one; times x {scale:g}")
    print("  messages stored in the end; longest sync_turn; end of the session and shutdown")
    outcomes, took = run(scale)
    met = True
    for case, (bundled, ours) in outcomes.items():
        met &= ours.is_good
        print(f"  {CASES[case].__doc__}")
        print(f"    {BUNDLED:14}{bundled}")
        print(f"    {OURS:14}{ours}{'' if ours.is_good else '  (MISSED)'}")
    print(f"  sync_turn of {OURS} while Honcho hangs, {TURNS} turns; ms: p50, p99, longest")
    for broker, (p50, p99, longest) in took.items():
        good = p99 < 1.0
        met &= good
        bar = f"p99 at most 1: {'met' if good else 'MISSED'}"
        print(f"    {LATENCIES[broker]:26}{p50:.2f}  {p99:.2f}  {longest:.1f}  ({bar})")
    return met


def main() -> int:
    """Print the table, or be one of its processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.provider", description=__doc__)
    parser.add_argument("--full", action="store_true", help="real times, not a tenth of them")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is None:
        return 0 if table(1.0 if arguments.full else 0.1) else 1
    case, provider, scale = arguments.child
    if case == "latency":
        print(json.dumps({"took": latency(provider)}))
    else:
        print(json.dumps(asdict(one(case, provider, float(scale)))))
    # The bundled provider may have threads that wait for minutes.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
