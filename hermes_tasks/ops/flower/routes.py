"""Where the pages of the tab are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tornado.web import StaticFileHandler, url

from hermes_tasks.ops.flower import views
from hermes_tasks.ops.flower.metrics import Metrics

#: Scripts and styles of the pages.
STATIC = Path(__file__).with_name("static")


class Static(StaticFileHandler):
    """Our files. A browser asks each time whether they are still the same: they are small."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")

    def get_cache_time(self, *_: Any) -> int:
        return 0


#: What we give in place of Flower's own.
INSTEAD = [url(r"/metrics", Metrics)]

ROUTES = [
    url(r"/sessions", views.SessionsPage, name="sessions"),
    url(r"/sessions/data", views.SessionsData, name="sessions_data"),
    url(r"/sessions/static/(.+)", Static, {"path": str(STATIC)}, name="sessions_static"),
    url(r"/session", views.SessionPage, name="session"),
    url(r"/session/data", views.SessionData, name="session_data"),
    url(r"/api/sessions", views.SessionsApi),
    url(r"/api/session", views.SessionApi),
]
