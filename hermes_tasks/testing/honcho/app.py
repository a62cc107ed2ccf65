"""The stand-in's HTTP side: routes, faults, and what tests may ask about."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from hermes_tasks.testing.honcho import recall
from hermes_tasks.testing.honcho.faults import Fault, Faults
from hermes_tasks.testing.honcho.journal import Journal
from hermes_tasks.testing.honcho.store import Rejected, Session, Store, unprocessable

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Protocol
else:
    Protocol = AutoHTTPProtocol

Work = Callable[[Request, Any], Any]
"""Does what a call is for; returns what is answered as JSON, or raises :class:`Rejected`."""

API = "/v3/workspaces"
RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER`` of zero seconds: closing the socket resets the connection."""


class Connection(Protocol):
    """A connection that is counted, and that a request can get at in order to break it.

    Attributes:
        was_reset: its client gave up the call, rather than close after it.
    """

    made = 0
    was_reset = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        Connection.made += 1
        self.app_state = {**self.app_state, "connection": self}
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.was_reset = exc is not None
        super().connection_lost(exc)


def _journaled(work: Callable[[StandIn, Request, Any], Any]) -> Callable[..., Any]:
    """It changes the store: with a journal, it is done again by a stand-in that starts anew."""

    @wraps(work)
    def done(standin: StandIn, request: Request, body: Any) -> Any:
        answer = work(standin, request, body)
        if standin.journal is not None:
            standin.journal.write(
                {
                    "work": work.__name__,
                    "params": request.path_params,
                    "body": body,
                    "arrived": request.state.arrived,
                    "landed": time.monotonic(),
                    "port": request.client.port if request.client else None,
                }
            )
        return answer

    return done


class StandIn:
    """The service: one store, and one list of faults, for all connections.

    Args:
        api_key: let in nobody without this bearer token.
        journal: file that keeps what is stored, and what was stored before.

    Attributes:
        journal: takes what is stored, if it is to be kept.
    """

    def __init__(self, api_key: str | None = None, journal: Path | None = None) -> None:
        self.store = Store()
        self.journal: Journal | None = None
        self.faults = Faults()
        self.faults.api_key = api_key
        self._calls: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._in_flight = self._most_in_flight = self._overlaps = 0
        self._arrivals: list[tuple[float, str]] = []
        if journal is not None:
            kept = Journal(journal)
            for entry in kept.entries():
                getattr(self, entry["work"])(
                    SimpleNamespace(path_params=entry["params"]), entry["body"]
                )
            self.journal = kept

    def app(self) -> Starlette:
        """The ASGI application, for a uvicorn whose ``http`` is :class:`Connection`."""
        one, messages = API + "/{workspace}", API + "/{workspace}/sessions/{session}/messages"
        session = API + "/{workspace}/sessions/{session}"
        peer = API + "/{workspace}/peers/{peer}"
        return Starlette(
            routes=[
                self._route(API, "workspaces", self._workspace),
                self._route(one + "/peers", "peers", self._peer),
                self._route(one + "/sessions", "sessions", self._session),
                self._route(session, "sessions", self._delete_session, "DELETE", 202),
                self._route(session + "/peers", "sessions", self._join),
                self._route(session + "/peers", "sessions", self._session_peers, "GET"),
                self._route(messages, "messages", self._add_messages, "POST", 201),
                self._route(messages + "/list", "list", self._list_messages),
                self._route(one + "/conclusions", "conclusions", self._conclude, "POST", 201),
                self._route(one + "/conclusions/list", "list", self._list_conclusions),
                self._route(session + "/context", "recall", self._context, "GET"),
                self._route(session + "/peers/{peer}/config", "recall", self._settings, "GET"),
                self._route(peer + "/context", "recall", self._peer_context, "GET"),
                self._route(peer + "/card", "recall", self._card, "GET"),
                self._route(peer + "/card", "peers", self._set_card, "PUT"),
                self._route(peer + "/chat", "recall", self._chat),
                self._route(peer + "/representation", "recall", self._representation),
                self._route(peer + "/search", "recall", self._search),
                self._route(one + "/search", "recall", self._search),
                self._route(one + "/conclusions/query", "recall", self._find_conclusions),
                self._route(
                    one + "/conclusions/{conclusion}", "conclusions", self._forget, "DELETE"
                ),
                Route("/health", self._health),
                Route("/_log", self._log),
                Route("/_conclusions", self._concluded),
                Route("/_stats", self._stats),
                Route("/_arrivals", self._times),
                Route("/_control", self._control, methods=["POST"]),
                Route("/_clear", self._clear, methods=["POST"]),
            ]
        )

    # -- what the service does -----------------------------------------------------------------

    @_journaled
    def _workspace(self, request: Request, body: Any) -> Any:
        return self.store.workspace(body).to_json()

    @_journaled
    def _peer(self, request: Request, body: Any) -> Any:
        return self.store.peer(request.path_params["workspace"], body)

    @_journaled
    def _session(self, request: Request, body: Any) -> Any:
        return self.store.session(request.path_params["workspace"], body).to_json()

    def _found(self, request: Request) -> Session:
        return self.store.find(**request.path_params)

    @_journaled
    def _delete_session(self, request: Request, body: Any) -> Any:
        self.store.delete(**request.path_params)
        return {"message": "Session deletion accepted"}

    @_journaled
    def _join(self, request: Request, body: Any) -> Any:
        session = self._found(request)
        self.store.join(session, body)
        return session.to_json()

    def _session_peers(self, request: Request, body: Any) -> Any:
        session = self._found(request)
        peers = self.store.workspaces[session.workspace].peers
        members = [{**peers[peer], "configuration": session.peers[peer]} for peer in session.peers]
        return _page(request, members)

    @_journaled
    def _add_messages(self, request: Request, body: Any) -> Any:
        return self.store.add_messages(**request.path_params, body=body)

    def _list_messages(self, request: Request, body: Any) -> Any:
        reverse = request.query_params.get("reverse") == "true"
        filters = (body or {}).get("filters")
        found = self.store.list_messages(**request.path_params, filters=filters, reverse=reverse)
        return _page(request, found)

    @_journaled
    def _conclude(self, request: Request, body: Any) -> Any:
        return self.store.add_conclusions(request.path_params["workspace"], body)

    def _list_conclusions(self, request: Request, body: Any) -> Any:
        reverse = request.query_params.get("reverse") == "true"
        filters = (body or {}).get("filters")
        workspace = request.path_params["workspace"]
        found = self.store.list_conclusions(workspace, filters, reverse=reverse)
        return _page(request, found)

    def _context(self, request: Request, body: Any) -> Any:
        return recall.context(self._found(request))

    def _settings(self, request: Request, body: Any) -> Any:
        names = request.path_params
        return recall.peer_settings(
            self.store.find(names["workspace"], names["session"]), names["peer"]
        )

    def _peer_context(self, request: Request, body: Any) -> Any:
        return recall.peer_context(self.store, **request.path_params, query=request.query_params)

    def _card(self, request: Request, body: Any) -> Any:
        return recall.card(self.store, **request.path_params, query=request.query_params)

    def _set_card(self, request: Request, body: Any) -> Any:
        names, query = request.path_params, request.query_params
        return recall.set_card(self.store, **names, query=query, body=body)

    def _chat(self, request: Request, body: Any) -> Any:
        return recall.answer(self.store, request.path_params["workspace"], body)

    def _representation(self, request: Request, body: Any) -> Any:
        return {"representation": ""}

    def _search(self, request: Request, body: Any) -> Any:
        return recall.search(self.store, request.path_params["workspace"], body)

    def _find_conclusions(self, request: Request, body: Any) -> Any:
        return recall.find_conclusions(self.store, request.path_params["workspace"], body)

    def _forget(self, request: Request, body: Any) -> Any:
        recall.delete_conclusion(self.store, **request.path_params)
        return {}

    # -- what may happen to a call -------------------------------------------------------------

    def _route(
        self, path: str, name: str, work: Work, method: str = "POST", status: int = 200
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                raw = await request.body()
            except ClientDisconnect:
                return Response(status_code=204)  # to nobody, and of half a request
            request.state.arrived = time.monotonic()
            # The service reads a request in many steps; what was reset by then is discarded.
            for _ in range(2):
                await asyncio.sleep(0)
            if _connection(request).was_reset:
                return Response(status_code=204)  # to nobody
            session = request.url.path if name == "messages" else None
            self._begin(name, session)
            try:
                response = await self._call(request, name, raw, lambda: _work(request, raw))
            finally:
                self._end(session)
            self._statuses[str(response.status_code)] += 1
            return response

        def _work(request: Request, raw: bytes) -> Response:
            try:
                body = json.loads(raw) if raw else None
                return _json(work(request, body), status)
            except ValueError:
                return _failed(request, Rejected(422, "The body is not JSON"))
            except Rejected as rejected:
                return _failed(request, rejected)

        return Route(path, endpoint, methods=[method])

    async def _call(
        self, request: Request, name: str, raw: bytes, work: Callable[[], Response]
    ) -> Response:
        latency = self.faults.latency()
        if latency:
            await asyncio.sleep(latency)
        key = self.faults.api_key
        if key is not None and request.headers.get("authorization") != f"Bearer {key}":
            return _failed(request, Rejected(401, "Invalid API key"))
        fault = self.faults.next(name)
        if fault is None:
            return work()
        return await _suffer(fault, request, raw, work)

    def _begin(self, name: str, session: str | None) -> None:
        self._calls[name] += 1
        self._arrivals.append((time.monotonic(), name))
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        if session is not None:
            self._overlaps += self._open[session] > 0
            self._open[session] += 1

    def _end(self, session: str | None) -> None:
        self._in_flight -= 1
        if session is not None:
            self._open[session] -= 1
            if not self._open[session]:
                del self._open[session]

    # -- what tests may ask --------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def _log(self, request: Request) -> Response:
        return _chosen(request, self.store.log)

    async def _concluded(self, request: Request) -> Response:
        return _chosen(request, self.store.concluded)

    async def _stats(self, request: Request) -> Response:
        return _json(
            {
                "calls": dict(self._calls),
                "statuses": dict(self._statuses),
                "connections": Connection.made,
                "messages": len(self.store.log),
                "in_flight": self._in_flight,
                "most_in_flight": self._most_in_flight,
                "overlaps": self._overlaps,
            }
        )

    async def _times(self, request: Request) -> Response:
        return _json(self._arrivals)

    async def _control(self, request: Request) -> Response:
        try:
            self.faults.tell(await request.json())
        except (ValueError, TypeError, KeyError) as error:
            return _json({"detail": str(error)}, 400)
        return _json({})

    async def _clear(self, request: Request) -> Response:
        self.store = Store()
        self._calls.clear()
        self._statuses.clear()
        self._arrivals.clear()
        self._most_in_flight = self._overlaps = 0
        return _json({})


async def _suffer(
    fault: Fault, request: Request, raw: bytes, work: Callable[[], Response]
) -> Response:
    """A call that meets a fault."""
    if fault.mode == "stall":
        response = work() if fault.after else None
        await asyncio.sleep(fault.value)
        return response or work()
    if fault.mode == "drip":
        return _dripped(work(), fault.value)
    if fault.after:
        work()
    if fault.mode == "cut":
        transport = _connection(request).transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.abort()
        return Response(status_code=204)  # to nobody
    status = int(fault.value)
    rejected = Rejected(status, f"told to fail with {status}")
    if status == 422:
        rejected = unprocessable(["messages"], "told to fail", json.loads(raw or b"null"))
    response = _failed(request, rejected)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = fault.retry_after
    return response


def _connection(request: Request) -> Connection:
    connection: Connection = request.scope["state"]["connection"]
    return connection


def _failed(request: Request, rejected: Rejected) -> Response:
    response = _json({"detail": rejected.detail}, rejected.status)
    if rejected.status == 500:
        # As uvicorn does for an application that broke: unannounced, after the answer.
        response.background = BackgroundTask(_close, _connection(request).transport)
    return response


async def _close(transport: asyncio.Transport) -> None:
    transport.close()


def _dripped(response: Response, interval: float) -> Response:
    body = bytes(response.body)

    async def drops() -> AsyncIterator[bytes]:
        for index in range(len(body)):
            yield body[index : index + 1]
            await asyncio.sleep(interval)

    return StreamingResponse(
        drops(),
        response.status_code,
        media_type="application/json",
        headers={"Content-Length": str(len(body))},
    )


def _chosen(request: Request, entries: list[dict[str, Any]]) -> Response:
    """The entries whose columns are as the query says."""
    wanted = request.query_params.items()
    return _json(
        [
            entry
            for entry in entries
            if all(str(entry.get(column)) == value for column, value in wanted)
        ]
    )


def _page(request: Request, rows: list[Any]) -> dict[str, Any]:
    page = max(1, int(request.query_params.get("page", 1)))
    size = min(100, max(1, int(request.query_params.get("size", 50))))
    return {
        "items": rows[(page - 1) * size : page * size],
        "total": len(rows),
        "page": page,
        "size": size,
        "pages": math.ceil(len(rows) / size),
    }


def _json(data: Any, status: int = 200) -> Response:
    return Response(json.dumps(data), status, media_type="application/json")
