"""Gateways that fork: neither process takes anything from the other, and no server is there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hermes_tasks.gateway.spool import Spool

DESTINATION = "redis://127.0.0.1:1/0 hermes"

# What the programs below begin with; their argument is the directory of outboxes.
COMMON = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from hermes_tasks import TurnSync
from hermes_tasks.gateway.spool import Spool
from hermes_tasks.testing.waiting import wait_until
directory = sys.argv[1]
def gateway():
    return TurnSync(broker_url="redis://127.0.0.1:1/0", prefix="hermes", outbox_dir=directory)
def take(sync, *contents, session="s"):
    for content in contents:
        messages = [{"peer": "igor", "content": str(content)}]
        sync.sync_turn(workspace="w", session=session, messages=messages)
def adopt():
    return Spool(Path(directory), "redis://127.0.0.1:1/0 hermes")
def send_two(spool):
    outbox = spool.head()
    outbox.confirm("server", time.monotonic())
    outbox.accept(outbox.mark(outbox.rows(2)))
def wait_for_the_end_of(parent):
    wait_until(lambda: os.getppid() != parent, 20.0, "the parent to end", interval=0.01)
"""

# A gateway that forks with a turn on its way; parent and child each report what they have.
FORKING = """
sync = gateway()
take(sync, "parent before")
child = os.fork()
if child == 0:
    seen = {"pending": sync.pending, "running": sync.is_running}
    take(sync, "child")
    seen["after"] = sync.pending
    report = sync.close(0.2)
    print(json.dumps(seen | {"left": report.left}), flush=True)
    os._exit(0)
os.waitpid(child, 0)
take(sync, "parent after")
print(json.dumps({"pending": sync.pending}), flush=True)
sync.close(0.2)
"""

# A gateway that dies without a word, and leaves a child that knows nothing of its outbox.
FORKED_AND_DEAD = """
sync = gateway()
take(sync, "hello")
if os.fork() == 0:
    print("child", flush=True)
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""

# A gateway whose child ends as programs do, and that is killed when it has taken more turns.
CHILD_ENDS = """
sync = gateway()
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
take(sync, *range(20))
os.kill(os.getpid(), signal.SIGKILL)
"""

# A gateway that is killed when it has taken turns; its child ends after it, as programs do.
CHILD_ENDS_LAST = """
parent, sync = os.getpid(), gateway()
if os.fork() == 0:
    wait_for_the_end_of(parent)
    sys.exit(0)
take(sync, *range(20))
os.kill(parent, signal.SIGKILL)
"""

# A gateway that is killed when it has taken turns before and after a fork, and whose child is one.
CHILD_ADOPTS = """
parent, sync = os.getpid(), gateway()
take(sync, *range(3))
if os.fork() == 0:
    wait_for_the_end_of(parent)
    print(gateway().pending, flush=True)
    os._exit(0)
take(sync, *range(60))
os.kill(parent, signal.SIGKILL)
"""

# A gateway that is closed with turns left, of which its child sends two, and ends as programs do.
CHILD_SENDS = """
sync = gateway()
wait, tell = os.pipe()
if os.fork() == 0:
    os.read(wait, 1)
    spool = adopt()
    send_two(spool)
    spool.close()
    sys.exit(0)
for number in range(30):
    take(sync, f"{number} " + "x" * 3000, session=f"s{number % 3}")
sync.close(0.1)
os.write(tell, b"x")
os.wait()
"""

# A gateway that is closed with turns left. Another adopts them, sends two and is killed, and then
# its child does.
CHILD_IS_LATE = """
sync = gateway()
wait, tell = os.pipe()
if os.fork() == 0:
    os.read(wait, 1)
    print(gateway().pending, flush=True)
    os._exit(0)
take(sync, *range(30))
sync.close(0.1)
subprocess.run([sys.executable, "-c", sys.argv[2], directory])
os.write(tell, b"x")
os.wait()
"""
ANOTHER = """
send_two(adopt())
os.kill(os.getpid(), signal.SIGKILL)
"""

# A gateway that is killed; one child adopts what it left, and sends two when the other has ended.
SIBLING_ENDS = """
parent, sync = os.getpid(), gateway()
wait, tell = os.pipe()
ended, end = os.pipe()
if os.fork() == 0:
    os.close(ended)
    os.read(wait, 1)
    sys.exit(0)
os.close(end)
if os.fork() == 0:
    wait_for_the_end_of(parent)
    spool = adopt()
    os.write(tell, b"x")
    os.read(ended, 1)
    send_two(spool)
    print("sent", flush=True)
    os._exit(0)
take(sync, *range(10))
os.kill(parent, signal.SIGKILL)
"""


def run(program: str, directory: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a program, when it and its children have ended."""
    command = [sys.executable, "-c", COMMON + program, str(directory), *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30)
    return ended.returncode, ended.stdout


@contextmanager
def next_gateway(directory: Path) -> Iterator[Spool]:
    """What the next gateway on the directory finds."""
    spool = Spool(directory, DESTINATION)
    yield spool
    spool.close()


def test_a_forked_child_is_a_gateway_of_its_own(tmp_path: Path) -> None:
    # Given a gateway with a turn that Redis has not accepted, that forks,
    status, said = run(FORKING, tmp_path)
    assert status == 0
    child, parent = (json.loads(line) for line in said.splitlines())
    # I expect the child to see nothing of it, and to have only what it was given itself
    assert child == {"pending": 0, "running": False, "after": 1, "left": 1}
    # and the parent not to notice
    assert parent == {"pending": 2}
    # Both have left their own turns, which the next gateway finds.
    contents = []
    with next_gateway(tmp_path) as spool:
        while (outbox := spool.head()) is not None:
            for row in outbox.rows(10):
                contents.append(json.loads(row.body)["messages"][0]["content"])
                outbox.accept([row])
    assert sorted(contents) == ["child", "parent after", "parent before"]


def test_a_child_does_not_keep_others_from_what_its_parent_left(tmp_path: Path) -> None:
    # Given a gateway that was killed after it forked, with a child that lives on,
    arguments = [sys.executable, "-c", COMMON + FORKED_AND_DEAD, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"child\n"
        assert process.wait(10) == -signal.SIGKILL
        # I expect the next gateway to find its turn
        with next_gateway(tmp_path) as spool:
            assert spool.pending == 1


def test_a_child_that_ends_takes_nothing_of_its_parents_with_it(tmp_path: Path) -> None:
    # Given a gateway that is killed when a child of it has ended, and closed what it inherited,
    assert run(CHILD_ENDS, tmp_path) == (-signal.SIGKILL, "")
    # I expect the next gateway to find all turns that came after that
    with next_gateway(tmp_path) as spool:
        assert spool.pending == 20


def test_a_child_that_ends_writes_nothing_into_what_another_may_just_adopt(tmp_path: Path) -> None:
    # Given a child that ends when its parent has been killed, so that nobody has the outbox
    assert run(CHILD_ENDS_LAST, tmp_path) == (-signal.SIGKILL, "")
    # I expect the log of the parent to be there still, and not to be moved by who has no lock
    (log,) = tmp_path.glob("*.db-wal")
    assert log.stat().st_size > 0
    with next_gateway(tmp_path) as spool:
        assert spool.pending == 20


def test_a_child_that_sent_for_its_parent_and_ends_leaves_the_rest(tmp_path: Path) -> None:
    # Given a child that has adopted the file it has inherited, too, and has ended
    assert run(CHILD_SENDS, tmp_path) == (0, "")
    # I expect the next gateway to find what it had not sent
    with next_gateway(tmp_path) as spool:
        assert spool.pending == 28


def test_a_child_knows_what_another_did_with_the_file_it_has_inherited(tmp_path: Path) -> None:
    # Given turns of a closed gateway, two of which another one has sent before it was killed,
    # I expect a child of the first to find the others
    assert run(CHILD_IS_LATE, tmp_path, COMMON + ANOTHER) == (0, "28\n")


def test_a_child_that_ends_takes_nothing_of_its_siblings_with_it(tmp_path: Path) -> None:
    # Given a gateway's child that has adopted its file, when another child ends
    assert run(SIBLING_ENDS, tmp_path) == (-signal.SIGKILL, "sent\n")
    # I expect what it notes after that to be there for the next gateway
    with next_gateway(tmp_path) as spool:
        assert spool.pending == 8


def test_a_child_finds_all_that_its_dead_parent_left(tmp_path: Path) -> None:
    # Given a gateway that is killed when it has taken turns after a fork, too,
    # I expect its child to find what both left, not what there was when it was made
    assert run(CHILD_ADOPTS, tmp_path) == (-signal.SIGKILL, "63\n")
