"""What the stand-in recalls: reads as a host makes them, from what is stored and nothing more.

The service reasons about what it stores; here nothing does. A search finds words, a question is
answered with the last message that holds one of its words, and a representation is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hermes_tasks.testing.honcho.store import Rejected, Session, Store

CONTEXT_MESSAGES = 50
"""Most messages in the context of a session."""


def context(session: Session) -> dict[str, Any]:
    """``GET …/sessions/{s}/context``"""
    return {
        "id": session.id,
        "messages": session.messages[-CONTEXT_MESSAGES:],
        "summary": None,
        "peer_representation": None,
        "peer_card": None,
    }


def peer_settings(session: Session, peer: str) -> dict[str, Any]:
    """``GET …/sessions/{s}/peers/{p}/config``"""
    if peer not in session.peers:
        raise Rejected(404, f"Peer {peer} not found in session {session.id}")
    return session.peers[peer]


def peer_context(
    store: Store, workspace: str, peer: str, query: Mapping[str, str]
) -> dict[str, Any]:
    """``GET …/peers/{p}/context``"""
    target = query.get("target", peer)
    return {
        "peer_id": peer,
        "target_id": target,
        "representation": "",
        "peer_card": card(store, workspace, peer, query)["peer_card"],
    }


def card(store: Store, workspace: str, peer: str, query: Mapping[str, str]) -> dict[str, Any]:
    """``GET …/peers/{p}/card``"""
    found = store.workspaces.get(workspace)
    key = (peer, query.get("target", peer))
    return {"peer_card": found.cards.get(key) if found else None}


def set_card(
    store: Store, workspace: str, peer: str, query: Mapping[str, str], body: Any
) -> dict[str, Any]:
    """``PUT …/peers/{p}/card``"""
    found = store.workspace({"id": workspace})
    found.cards[peer, query.get("target", peer)] = body["peer_card"]
    return card(store, workspace, peer, query)


def answer(store: Store, workspace: str, body: Any) -> dict[str, Any]:
    """``POST …/peers/{p}/chat``"""
    words = str(body.get("query", "")).split()
    found = [m for word in words for m in search(store, workspace, {"query": word})]
    return {"content": found[-1]["content"] if found else None}


def search(store: Store, workspace: str, body: Any) -> list[dict[str, Any]]:
    """``POST …/search`` and ``POST …/peers/{p}/search``: newest first."""
    known = store.workspaces.get(workspace)
    words = str(body.get("query", "")).casefold().split()
    found = [
        message
        for session in (known.sessions.values() if known else ())
        for message in session.messages
        if words and all(word in message["content"].casefold() for word in words)
    ]
    return found[::-1][: int(body.get("limit") or 10)]


def find_conclusions(store: Store, workspace: str, body: Any) -> list[dict[str, Any]]:
    """``POST …/conclusions/query``"""
    found = store.list_conclusions(workspace, body.get("filters"), reverse=False)
    words = str(body.get("query", "")).casefold().split()
    hits = [one for one in found if any(word in one["content"].casefold() for word in words)]
    return hits[: int(body.get("top_k") or 10)]


def delete_conclusion(store: Store, workspace: str, conclusion: str) -> None:
    """``DELETE …/conclusions/{id}``"""
    known = store.workspace({"id": workspace})
    left = [one for one in known.conclusions if one["id"] != conclusion]
    if len(left) == len(known.conclusions):
        raise Rejected(404, f"Conclusion {conclusion} not found")
    known.conclusions = left
