"""Flower's templates with ours beside them, and our entry in the navigation of every page."""

from __future__ import annotations

import logging
from pathlib import Path

from tornado.template import Loader, Template

logger = logging.getLogger(__name__)

#: Our templates.
PAGES = Path(__file__).with_name("pages")

_NAVIGATION = "navbar.html"
_END_OF_ENTRIES = "</ul>"
_ENTRY = """\
<li class="nav-item">
          <a class="nav-link{% if active_tab == 'sessions' %} active{% end %}"
            href="{{ reverse_url('sessions') }}"
            {% if active_tab == 'sessions' %}aria-current="page"{% end %}>Sessions</a>
        </li>
      """


class TabLoader(Loader):
    """Finds our pages first, then Flower's; ``root`` is the directory of Flower's templates."""

    def _create_template(self, name: str) -> Template:
        ours = PAGES / name
        path = ours if ours.is_file() else Path(self.root, name)
        source = path.read_text(encoding="utf-8")
        if name == _NAVIGATION:
            source = _with_entry(source)
        return Template(source, name=name, loader=self)


def _with_entry(source: str) -> str:
    """Flower's navigation with our entry after its own."""
    before, end, after = source.partition(_END_OF_ENTRIES)
    if not end:
        logger.warning("this Flower has another navigation: the Sessions tab is at /sessions")
        return source
    return before + _ENTRY + end + after
