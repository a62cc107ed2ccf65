"""Users of Redis with the least rights that their part of a deployment needs.

``python -m devtools.acl`` writes ``deploy/redis/users.acl``, in which nobody has a password yet:
``deploy/redis/start.sh`` puts them in. The commands of a user are those of the
scripts that it runs, read from the scripts themselves, and the few that Python and Kombu add; a
test holds the file against this. Redis takes no comments in it, so what each right is for is here.

Rights to keys go by name; what a script may touch is what its user may. ``EVALSHA_RO`` runs what
only reads, and Redis lets a user run it who may only read its keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

PATH = Path(__file__).parents[1] / "deploy" / "redis" / "users.acl"

#: Celery's broadcasts, with the number of the database. Each of these that holds a star is a
#: pattern that is subscribed to: Redis compares those letter by letter.
EVENTS = "&/0.celeryev/* &/0.celeryev/worker.*"
CONTROL = "&/0.celery.pidbox"

#: Queues of plain tasks and those in a worker's hands, bindings, what `celery inspect` asks and
#: hears, events; and what Kombu does with them, its locks included.
KOMBUS_KEYS = "~hermes.* ~unacked* ~_kombu.* ~*.celery.pidbox* ~celeryev.*"
KOMBU = (
    "brpop lpush rpush llen zadd zrem zrange zrangebyscore hget hset hdel sadd srem smembers "
    "exists del get set pexpire time watch unwatch multi exec eval evalsha script|load "
    "script|exists publish subscribe unsubscribe psubscribe punsubscribe"
)

#: Everything that reads a key, so that a newer version may look at more; nothing that lists all
#: keys of the database.
LOOKING = "@read -scan -randomkey -dbsize time eval_ro evalsha_ro"


@dataclass(frozen=True, slots=True)
class User:
    """A user and what it may do; ``hermes`` stands for the prefix of the deployment.

    Attributes:
        name: under which it connects.
        keys: in the words of ``ACL SETUSER``.
        channels: the same.
        scripts: it runs, as ``package/name``.
        commands: it sends besides the commands of its scripts.
    """

    name: str
    keys: str
    channels: str
    scripts: tuple[str, ...]
    commands: str

    def line(self) -> str:
        """Its line of an ACL file, without a password: nobody can be this user yet.

        What every connection begins with (AUTH, HELLO, PING, SELECT, CLIENT SETINFO) is granted by
        category, as servers differ in it.
        """
        used = {command for script in self.scripts for command in commands_of(script)}
        own = list(dict.fromkeys(self.commands.split()))
        words = [*sorted(used - set(own)), *own]
        granted = " ".join(word if word.startswith("-") else f"+{word}" for word in words)
        return (
            f"user {self.name} on resetpass resetkeys {self.keys} resetchannels {self.channels} "
            f"-@all +@connection {granted} -@admin -@dangerous +info"
        ).replace("  ", " ")


def commands_of(script: str) -> set[str]:
    """The commands that a script's text names, those of what it is built on too."""
    package, _, name = script.rpartition("/")
    text = _text(package, name)
    if package == "gate":
        text += _text("gate", "gate")
    if package == "transport" or name in ("admit", "resume"):
        text += _text("transport", "common")
    return {command.lower() for command in re.findall(r"redis\.p?call\(\s*'(\w+)'", text)}


def _text(package: str, name: str) -> str:
    return files(f"hermes_tasks.{package}").joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _every(*packages: str) -> Iterable[str]:
    for package in packages:
        for file in sorted(files(f"hermes_tasks.{package}").iterdir(), key=lambda f: f.name):
            if file.name.endswith(".lua"):
                yield f"{package}/{file.name.removesuffix('.lua')}"


USERS = (
    # Sends turns, asks how far they are, and hears when they are written. It may not look into
    # dead letters: to add one it needs no command that reads them.
    User(
        "hermes-gateway",
        " ".join(
            f"~{{hermes}}{key}"
            for key in (
                *(":session:*", ":ready", ":leases", ":sleeping", ":lagging", ":paused"),
                *(":meta", ":dead", ":stats", ":gateways", ".run"),
            )
        )
        + " %R~{hermes}:gate:*",
        "&{hermes}:session:*",
        (
            "transport/push",
            "transport/progress",
            "transport/epoch",
            "gate/status",
            "gateway/report",
        ),
        "eval evalsha eval_ro evalsha_ro multi exec publish subscribe unsubscribe",
    ),
    # Workers, and the commands that change something.
    User(
        "hermes-worker",
        f"~{{hermes}}* {KOMBUS_KEYS}",
        f"&{{hermes}}:session:* {CONTROL} {EVENTS}",
        tuple(_every("transport", "gate", "ops")),
        # `hermes-tasks check` looks at every session.
        f"eval_ro evalsha_ro scan zmscore {KOMBU}",
    ),
    # `hermes-tasks status`, `list` and `show`, the exporter. Nothing that it can do changes a turn.
    User("hermes-viewer", "%R~{hermes}*", "", (), LOOKING),
    # Flower: what the viewer may, and what a client of Celery does for events and remote control.
    # By the latter it can revoke a turn and stop a worker, as its page offers.
    User(
        "hermes-flower",
        f"%R~{{hermes}}* {KOMBUS_KEYS}",
        f"{CONTROL} {EVENTS}",
        (),
        f"{LOOKING} {KOMBU}",
    ),
)


def text() -> str:
    """The whole file."""
    return "".join(f"{line}\n" for line in ("user default off", *(u.line() for u in USERS)))


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(text(), encoding="utf-8")
