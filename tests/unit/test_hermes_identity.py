"""Whose memory it is, by the host's own configuration and rules."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins.memory.honcho.client import HonchoClientConfig
from plugins.memory.honcho.session import HonchoSessionManager

from hermes_tasks.errors import ConfigurationError
from hermes_tasks.hermes.bundled import guide
from hermes_tasks.hermes.identity import (
    Identity,
    check_address,
    fit,
    is_pinned,
    observation,
    saves_messages,
    user_peer,
)
from hermes_tasks.identity import is_honcho_id

LONG = "channel-" * 20


def config_of(tmp_path: Path, **raw: Any) -> Any:
    """The host's configuration, read by the host from a file."""
    path = tmp_path / "honcho.json"
    path.write_text(json.dumps(raw))
    return HonchoClientConfig.from_global_config(host="hermes", config_path=path)


@pytest.mark.parametrize(
    ("raw", "context", "peer"),
    [
        ({"peerName": "igor", "pinPeerName": True}, {"user_id": "7"}, "igor"),
        ({"peerName": "igor"}, {"user_id": "7"}, "7"),
        ({"peerName": "igor"}, {}, "igor"),
        ({"userPeerAliases": {"7": "anna"}}, {"user_id": "7"}, "anna"),
        ({"userPeerAliases": {"x": "anna"}}, {"user_id": "7", "user_id_alt": "x"}, "anna"),
        ({"runtimePeerPrefix": "telegram_"}, {"user_id": "7"}, "telegram_7"),
        # The hash tells apart what the host's rule would make one of.
        ({"runtimePeerPrefix": "tg_"}, {"user_id": "a:b"}, "tg_a-b-4a1ca346"),
        ({"runtimePeerPrefix": "tg_", "peerName": "tg_7"}, {"user_id": "7"}, "tg_7-f2a5b1d6"),
        ({}, {"user_id_alt": "@igor:example.org"}, "-igor-example-org"),
        ({}, {}, "user-telegram-42"),
    ],
)
def test_the_user_is_who_the_host_says(
    raw: dict[str, Any], context: dict[str, str], peer: str, tmp_path: Path
) -> None:
    config = config_of(tmp_path, **raw, writeFrequency="turn")
    runtime = [context.get("user_id"), context.get("user_id_alt")]
    host = HonchoSessionManager(
        config=config, runtime_user_peer_name=runtime[0], runtime_user_peer_name_alt=runtime[1]
    )

    ours = user_peer(config, "telegram:42", runtime)

    assert ours == host._resolve_user_peer_id("telegram:42")
    if "-" not in peer or not ours.startswith("tg_"):
        assert ours == peer


@pytest.mark.parametrize(
    ("raw", "pinned"),
    [
        ({"pinPeerName": True}, True),
        ({"pinPeerName": "false"}, False),
        ({"pinPeerName": "true"}, False),
        ({"pinPeerName": 1}, False),
        ({"pinUserPeer": False, "pinPeerName": True}, False),
        ({"pinPeerName": False, "hosts": {"hermes": {"pinPeerName": True}}}, True),
        ({"pinPeerName": True, "hosts": {"hermes": {"pinUserPeer": False}}}, False),
        ({}, False),
    ],
)
def test_a_peer_is_pinned_only_by_a_literal_true(
    raw: dict[str, Any], pinned: bool, tmp_path: Path
) -> None:
    assert is_pinned(config_of(tmp_path, peerName="igor", **raw)) is pinned


@pytest.mark.parametrize(
    ("strategy", "context"),
    [
        ("per-session", {"gateway_session_key": f"matrix:!{LONG}:example.org"}),
        ("per-session", {}),
        ("per-directory", {"session_title": LONG}),
        ("per-directory", {}),
        ("global", {}),
    ],
)
def test_no_key_of_any_kind_is_too_long(
    strategy: str,
    context: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = tmp_path / f"d{LONG}"[:200]
    directory.mkdir()
    monkeypatch.chdir(directory)
    config = config_of(
        tmp_path, sessionStrategy=strategy, workspace=LONG, aiPeer=LONG, runtimePeerPrefix=LONG
    )

    identity = Identity.of(config, LONG, context | {"user_id": LONG})

    for id in (identity.workspace, identity.session, identity.user, identity.assistant):
        assert is_honcho_id(id)
    assert len({identity.session, fit(LONG + "x")}) == 2


def test_a_key_that_fits_is_the_one_the_host_has_always_used() -> None:
    assert fit("my project") == "my-project"
    assert fit("a" * 100) == "a" * 100
    assert fit("a" * 101) == "a" * 91 + "-" + fit("a" * 101)[-8:]


@given(st.text(min_size=1))
def test_every_name_becomes_a_valid_id(name: str) -> None:
    assert is_honcho_id(fit(name))


def test_names_in_other_scripts_stay_apart() -> None:
    assert fit("日本") != fit("中国")


@pytest.mark.parametrize("address", ["true", "localhost", "ftp://honcho", "http://", "http://h:x"])
def test_an_address_that_is_none_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="baseUrl") as refused:
        check_address(config_of(tmp_path, baseUrl=address))
    assert f"{address}\n" not in f"{refused.value}\n"


def test_a_self_hosted_honcho_without_keys_is_given_a_placeholder(tmp_path: Path) -> None:
    config = config_of(tmp_path, baseUrl="https://honcho.example.org")
    check_address(config)
    identity = Identity.of(config, "s", {})
    provider = SimpleNamespace(_resolve_session_key=None)

    guide(provider, identity, writes=True)

    assert provider._resolve_session_key(config, "s") == identity.session
    assert config.api_key == "local"
    # It would start a thread that nothing ends.
    assert config.write_frequency != "async"


@pytest.mark.parametrize(
    ("value", "saves"), [(True, True), (False, False), ("false", False), ("off", False)]
)
def test_what_looks_like_a_no_is_one(value: object, saves: bool, tmp_path: Path) -> None:
    assert saves_messages(config_of(tmp_path, saveMessages=value)) is saves


def test_the_peers_observe_as_configured(tmp_path: Path) -> None:
    config = config_of(tmp_path, peerName="igor", observationMode="unified", aiPeer="hermes")
    assert observation(config, Identity.of(config, "s", {})) == {
        "igor": {"observe_me": True, "observe_others": False},
        "hermes": {"observe_me": False, "observe_others": True},
    }
