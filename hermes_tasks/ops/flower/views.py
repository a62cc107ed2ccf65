"""The pages of the tab, and the JSON that they and Flower's API give.

A page is the same for everybody; its script asks for the numbers and shows them as text. What came
from Redis is never part of any HTML.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from flower.api import BaseApiHandler
from flower.views import BaseHandler
from tornado.web import HTTPError, authenticated

from hermes_tasks.config import Settings, redact_url
from hermes_tasks.errors import BrokerUnavailable
from hermes_tasks.gate import Policy
from hermes_tasks.ops.flower import questions
from hermes_tasks.ops.flower.reader import Reader
from hermes_tasks.ops.flower.recent import recent_turns
from hermes_tasks.ops.view import View

if TYPE_CHECKING:
    from hermes_tasks.transport import SessionStore

T = TypeVar("T")

#: Rows of sessions in one answer: by default, and at most.
ROWS = 25
MOST_ROWS = 500

#: Only our own scripts and styles, and connections to nobody but Flower: were a name ever taken
#: for HTML, nothing in it could run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)


class Page(BaseHandler):
    """A page of Flower with a script of ours."""

    template: str

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "same-origin")

    @authenticated
    def get(self) -> None:
        self.render(self.template)


class SessionsPage(Page):
    """Gates, the last hour, sessions that lag, dead letters."""

    template = "sessions.html"


class SessionPage(Page):
    """One session. Which one, its script reads from the address."""

    template = "session.html"


class Asking:
    """What a handler needs to ask Redis: mixed into one of Flower's."""

    application: Any

    async def ask(self, key: tuple[Any, ...], question: Callable[[SessionStore], T]) -> T:
        """An answer for everybody; see :class:`Reader`."""
        reader: Reader | None = getattr(self.application, "sessions_reader", None)
        if reader is None:
            app = self.application.capp
            reader = Reader(View(app, redact_url(str(app.conf.broker_write_url))))
            self.application.sessions_reader = reader
        return await reader.read(key, question)

    @property
    def policy(self) -> Policy:
        """By which the gates decide, as far as this process has been told."""
        settings = getattr(self.application.capp, "settings", None) or Settings.load()
        return Policy.from_settings(settings)


class Json(Asking):
    """A handler that answers with JSON, errors too."""

    request: Any
    set_header: Callable[[str, str], None]
    set_status: Callable[[int], None]
    finish: Callable[[str], Any]

    async def answer(self) -> dict[str, Any]:
        """The answer to a request that may be answered."""
        raise NotImplementedError

    @authenticated
    async def get(self) -> None:
        try:
            self._finish(200, await self.answer())
        except BrokerUnavailable as error:
            self._finish(503, {"error": str(error)})
        except HTTPError as error:
            self._finish(error.status_code, {"error": error.get_message()})

    def argument(self, name: str, default: str = "") -> str:
        """An argument as it was sent: Flower's own method escapes it for HTML, and strips it."""
        values = self.request.query_arguments.get(name)
        if not values:
            return default
        try:
            return str(values[-1].decode())
        except UnicodeDecodeError:
            raise HTTPError(400, f"{name} is not UTF-8") from None

    def number(self, name: str, default: float) -> float:
        """An argument that is a number."""
        try:
            number = float(self.argument(name) or default)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise HTTPError(400, f"{name} is not a number")
        return number

    def _finish(self, status: int, answer: dict[str, Any]) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(answer, separators=(",", ":")))


class Overview(Json):
    """What ``/sessions`` shows.

    ``since``: seconds of Redis time; only what the history has after that is sent. ``cursor``,
    ``limit`` and ``state`` are those of ``hermes-tasks sessions list``.
    """

    async def answer(self) -> dict[str, Any]:
        since = self.number("since", 0.0)
        limit = max(1, min(MOST_ROWS, int(self.number("limit", ROWS))))
        cursor, state = self.argument("cursor"), self.argument("state") or None
        policy = self.policy
        found = await self.ask(("overview",), lambda store: questions.overview(store, policy))
        try:
            rows = await self.ask(
                ("sessions", cursor, limit, state),
                lambda store: questions.sessions(store, cursor=cursor, limit=limit, state=state),
            )
        except ValueError as error:
            raise HTTPError(400, str(error)) from None
        return {
            **found,
            "history": [sample for sample in found["history"] if sample["at"] > since],
            "sessions": rows,
        }


class Detail(Json):
    """What ``/session?id=…`` shows."""

    async def answer(self) -> dict[str, Any]:
        id = self.argument("id")
        found = await self.ask(("session", id), lambda store: questions.session(store, id))
        recent = recent_turns(self.application.events.state, id)
        if found is None and not recent:
            raise HTTPError(404, "Redis knows no session of this name")
        return {"session": found, "recent": recent}


class SessionsData(Overview, BaseHandler):
    """For the page."""


class SessionsApi(Overview, BaseApiHandler):
    """For programs: as all of Flower's API, only with a login, or where it is open to everybody."""


class SessionData(Detail, BaseHandler):
    """For the page."""


class SessionApi(Detail, BaseApiHandler):
    """For programs."""
