"""What is sealed: who can read it, what stays readable, and what a changed one is taken for."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from hermes_tasks.app import make_app
from hermes_tasks.config import Settings
from hermes_tasks.errors import ConfigurationError, InvalidTurn, MissingKey
from hermes_tasks.sealing import Keyring, Sealed, fingerprint, is_sealed, keyring_of
from hermes_tasks.tasks import TurnTask
from hermes_tasks.turns import Conclusion, Turn, from_json

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
MARKER = "the-words-nobody-may-read"

TURN = Turn.create(
    "w",
    "s",
    [{"peer": "igor", "content": f"{MARKER} ёж", "metadata": {"mood": MARKER}}],
    turn_id="t",
    peers={"igor": {"observe_me": False}},
)
FACT = Conclusion.create("w", "s", "hermes", "igor", MARKER, turn_id="c", ask=True)


@pytest.mark.parametrize("turn", [TURN, FACT], ids=["turn", "conclusion"])
def test_what_is_sealed_is_read_by_who_has_the_key_and_says_nothing_to_others(
    turn: Turn | Conclusion,
) -> None:
    sealed = Keyring([NEW, OLD]).seal(turn).to_json()
    stored = json.dumps(sealed)
    assert MARKER not in stored
    assert "igor" not in stored
    assert Keyring([OTHER, NEW]).read(json.loads(stored)) == turn
    envelope = Sealed.from_json(sealed)
    assert envelope.describe() == turn.describe()
    for name in ("kind", "turn_id", "backend", "workspace", "session", "ask", "size", "characters"):
        assert getattr(envelope, name) == getattr(turn, name)
    assert MARKER not in repr(envelope) + envelope.describe()


@given(st.text(st.characters(codec=None), min_size=1))
def test_every_text_comes_back_as_it_was(text: str) -> None:
    data = TURN.to_json()
    data["messages"][0]["content"] = text
    keyring = Keyring([NEW])
    turn = from_json(data)
    assert keyring.read(keyring.seal(turn).to_json()) == turn


def test_what_is_not_sealed_is_read_with_and_without_keys() -> None:
    for keys in ([], [NEW]):
        assert Keyring(keys).read(TURN.to_json()) == TURN


def test_the_first_key_seals() -> None:
    assert Keyring([NEW, OLD]).seal(TURN).key == fingerprint(NEW)


@pytest.mark.parametrize(
    ("keys", "has"),
    [([], "is not set"), ([OLD], f"has {fingerprint(OLD)}")],
    ids=["none", "another"],
)
def test_a_key_that_is_missing_is_named_by_its_fingerprint(keys: list[str], has: str) -> None:
    sealed = Keyring([NEW]).seal(TURN).to_json()
    with pytest.raises(MissingKey) as caught:
        Keyring(keys).read(sealed)
    assert str(caught.value) == (
        f"turns are sealed with the key {fingerprint(NEW)}, but HERMES_TASKS_ENCRYPTION_KEYS "
        f"{has}: add that key"
    )


def test_a_sealed_turn_that_was_changed_is_no_turn() -> None:
    sealed = Keyring([NEW]).seal(TURN).to_json()
    token = sealed["sealed"]
    for change in (
        {"sealed": token[:-8] + "AAAAAAA="},
        {"sealed": "ёж"},
        {"session": "another"},
        {"turn_id": "another"},
        {"session": "a:b"},
        {"sealed": None},
        {"messages": "many"},
        {"key": fingerprint(OLD)},
    ):
        with pytest.raises(InvalidTurn) as caught:
            Keyring([NEW, OLD]).read({**sealed, **change})
        assert token not in str(caught.value)


def test_a_worker_that_knows_no_sealed_turns_says_that_it_is_too_old() -> None:
    with pytest.raises(InvalidTurn, match=r"format 2, this worker reads 1: update the worker"):
        Turn.from_json(Keyring([NEW]).seal(TURN).to_json())


def test_a_task_is_sealed_however_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def publish(_: Any, args: Any, kwargs: Any, **options: Any) -> None:
        sent.append((args, kwargs, options))

    monkeypatch.setattr("hermes_tasks.transport.BatchTask.apply_async", publish)
    settings = Settings.load(encryption_keys=NEW, broker_url="redis://127.0.0.1:1/0")
    task = make_app(settings, set_as_current=False).tasks["hermes_tasks.sync_turn"]
    assert isinstance(task, TurnTask)
    task.apply_async((TURN.to_json(),))
    task.apply_async(kwargs={"turn": TURN.to_json()})
    once = keyring_of(settings).seal(TURN).to_json()
    task.apply_async((once,))
    (args, _, options), (_, kwargs, _), (again, _, _) = sent
    assert is_sealed(args[0])
    assert is_sealed(kwargs["turn"])
    assert again[0] == once
    assert options["argsrepr"] == f"({TURN.describe()})"
    assert MARKER not in str(sent)


def test_keys_are_shown_by_fingerprint_and_wrong_ones_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variable = "HERMES_TASKS_ENCRYPTION_KEYS"
    monkeypatch.setenv(variable, f"{NEW}, {OLD}")
    settings = Settings()
    rows = {row.variable: row.value for row in settings.rows()}
    assert rows[variable] == f"{fingerprint(NEW)}, {fingerprint(OLD)}"
    assert NEW not in repr(settings) + str(settings.model_dump()) + repr(settings.rows())
    assert Settings.load(**settings.model_dump()).encryption_keys == settings.encryption_keys
    for wrong in ("s3cret", f"{NEW},s3cret", f"{NEW},", NEW[:-4]):
        monkeypatch.setenv(variable, wrong)
        with pytest.raises(ConfigurationError) as caught:
            Settings()
        assert str(caught.value).startswith(f"{variable}: must be Fernet keys")
        assert wrong not in repr(caught.value)
        assert "s3cret" not in repr(caught.value.__cause__)


def test_keys_without_the_extra_say_what_to_install_and_none_need_nothing() -> None:
    script = f"""
import sys
sys.modules["cryptography"] = sys.modules["cryptography.fernet"] = None
from hermes_tasks.sealing import Keyring
from hermes_tasks.errors import MissingExtra
assert not Keyring([])
try:
    Keyring([{NEW!r}])
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == (
        "HERMES_TASKS_ENCRYPTION_KEYS is set, which needs: pip install 'hermes-tasks[encryption]'\n"
    ), done.stderr
