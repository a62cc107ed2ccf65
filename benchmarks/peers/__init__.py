"""The contenders: how each is sent a turn, and how its workers are started.

A module of this package is one of them. It is imported only by the processes of a run, which find
the server in ``BENCH_BROKER``, and has:

``enqueue(turn)``
    sends a turn, a dict, as a caller without an event loop does, and returns when its library does;
whatever the worker's command line names
    an application whose task gives the turn to :mod:`benchmarks.work`.

Each is configured as its documentation tells a user to who does not want to lose what he sent:
acknowledged when done wherever there is such a choice, no results kept, and as many slots as asked
for. Nobody else's option is turned that makes a contender slower.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Peer:
    """One contender.

    Attributes:
        name: as tables have it.
        module: of this package.
        command: of one worker: ``{slots}`` stands for how many turns it writes at a time,
            ``{worker}`` for its number, and ``{pool}`` for Celery's pool.
        keeps_order: whether it claims to write a session's turns in order.
        redelivers: whether it claims that a turn whose worker died is written all the same.
        shards: worker processes it always needs, one for each shard; 0: as many as are asked for.
        slots: the most that one worker has.
        store: ``redis``, or ``postgres``, or ``""``: the turns stay in the sender's memory.
        share: of the turns of a run that it is given, because it is so slow.
    """

    name: str
    module: str
    command: tuple[str, ...] = ()
    keeps_order: bool = False
    redelivers: bool = True
    shards: int = 0
    slots: int = 1_000
    store: str = "redis"
    share: float = 1.0
    env: dict[str, str] = field(default_factory=dict)


def _celery(app: str, *more: str) -> tuple[str, ...]:
    quiet = ("--without-gossip", "--without-mingle", "--loglevel", "WARNING")
    return (sys.executable, "-m", "celery", "-A", app, "worker", *quiet, *more)


_MODULE = "benchmarks.peers."
#: Shards of the order that users build from queues: as many processes as a small host carries.
SHARDS = 4
_POOL = ("--pool", "{pool}", "--concurrency", "{slots}")

OURS = Peer(
    "hermes_tasks",
    "ours",
    (*_celery("hermes_tasks", "-I", _MODULE + "ours", "-n", "w{worker}@bench"), *_POOL),
    keeps_order=True,
)
STOCK = Peer(
    "Celery",
    "stock_celery",
    (*_celery(_MODULE + "stock_celery", "-n", "w{worker}@bench"), *_POOL),
)
DEFAULTS = Peer(
    "Celery, nothing set",
    "stock_celery",
    STOCK.command,
    redelivers=False,
    env={"BENCH_DEFAULTS": "1"},
)
SHARDED = Peer(
    "Celery, sharded queues",
    "sharded_celery",
    _celery(
        _MODULE + "sharded_celery", "-Q", "shard-{worker}", "-n", "w{worker}@bench", "-P", "solo"
    ),
    keeps_order=True,
    shards=SHARDS,
    slots=1,
)
LOCKED = Peer(
    "Celery, lock per session",
    "locked_celery",
    (*_celery(_MODULE + "locked_celery", "-n", "w{worker}@bench"), *_POOL),
)
DRAMATIQ = Peer(
    "dramatiq",
    "dramatiq_actor",
    (sys.executable, "-m", "dramatiq", _MODULE + "dramatiq_actor", "-p", "1", "-t", "{slots}"),
)
RQ = Peer(
    "RQ",
    "rq_job",
    (sys.executable, "-m", _MODULE + "rq_job"),
    slots=1,
    share=0.05,
)
HUEY = Peer(
    "Huey",
    "huey_task",
    (
        *(sys.executable, "-m", "huey.bin.huey_consumer", _MODULE + "huey_task.huey"),
        *("-k", "thread", "-w", "{slots}", "-q"),
    ),
    redelivers=False,
)
TASKIQ = Peer(
    "taskiq",
    "taskiq_task",
    (
        *(sys.executable, "-m", "taskiq", "worker", _MODULE + "taskiq_task:broker", "-w", "1"),
        *("--max-async-tasks", "{slots}", "--log-level", "ERROR", "--no-configure-logging"),
    ),
)
SAQ = Peer("SAQ", "saq_job", (sys.executable, "-m", "saq", _MODULE + "saq_job.settings", "--quiet"))
STREAQ = Peer(
    "streaq",
    "streaq_task",
    (sys.executable, "-m", "streaq", "run", _MODULE + "streaq_task:worker"),
)
PROCRASTINATE = Peer(
    "procrastinate",
    "procrastinate_task",
    (
        *(sys.executable, "-m", "procrastinate", "--app", _MODULE + "procrastinate_task.app"),
        *("worker", "--concurrency", "{slots}"),
        # A turn that waits for its session's lock is found by polling: by itself every 5 s.
        *("--fetch-job-polling-interval", "0.1"),
    ),
    keeps_order=True,
    store="postgres",
)
THREAD = Peer(
    "queue and a thread",
    "thread_queue",
    keeps_order=True,
    redelivers=False,
    store="",
    share=0.15,
)

#: What most users would pick instead, or build.
MAIN = (OURS, STOCK, SHARDED, LOCKED, DRAMATIQ, THREAD)
#: All of them, ours first.
ALL = (
    OURS,
    STOCK,
    DEFAULTS,
    SHARDED,
    LOCKED,
    DRAMATIQ,
    RQ,
    HUEY,
    TASKIQ,
    SAQ,
    STREAQ,
    PROCRASTINATE,
    THREAD,
)
