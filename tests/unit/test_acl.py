"""The users of Redis: their file is what its maker says, and lets nobody in as it is."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from pathlib import Path

from devtools import acl

START = acl.PATH.with_name("start.sh")


def test_the_file_of_users_is_up_to_date() -> None:
    assert acl.PATH.read_text(encoding="utf-8") == acl.text(), "run `python -m devtools.acl`"


def test_nobody_gets_in_who_was_given_no_password(tmp_path: Path) -> None:
    password = "&/sword\\fish|"
    environment = {
        "HERMES_VIEWER_PASSWORD": password,
        "HERMES_TASKS_PREFIX": "other",
        "HERMES_ACL_FILE": str(tmp_path / "users.acl"),
    }
    shown = subprocess.run(
        [START, "env"], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    # `env` is told to read the file, as Redis would be, and does not know how.
    assert "aclfile" in shown.stderr
    written = (tmp_path / "users.acl").read_text()
    assert "hermes}" not in written
    assert "~hermes." not in written
    users = dict(line.split(" ", 2)[1:] for line in written.splitlines())
    assert users.pop("default") == "off"
    digest = sha256(password.encode()).hexdigest()
    assert users.pop("hermes-viewer").startswith(f"on #{digest} resetkeys %R~{{other}}* ")
    assert all(rights.startswith("on resetpass ") for rights in users.values())
    assert password not in written
    assert oct((tmp_path / "users.acl").stat().st_mode)[-3:] == "600"
