"""MkDocs hook: adds the generated pages to the site, and draws its diagrams into the pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from devtools.reference import commands, errors, gateway, keys, lua, metrics, settings

PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings.page,
    "reference/commands.md": commands.page,
    "reference/metrics.md": metrics.page,
    "reference/gateway.md": gateway.page,
    "reference/errors.md": errors.page,
    "reference/keys.md": keys.page,
    "reference/lua.md": lua.page,
}

_DIAGRAM = re.compile(r'<img alt="([^"]*)" src="[^"]*?((?:diagrams|benchmarks)/[\w-]+\.svg)"\s*/?>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put each diagram's own text in place of its image, so that it follows the page's colours."""

    def drawn(image: re.Match[str]) -> str:
        meaning, path = image.groups()
        svg = (Path(config.docs_dir) / path).read_text(encoding="utf-8")
        title = f"<title>{unescape(meaning)}</title>"
        return re.sub(r"(<svg[^>]*)>", rf'\1 role="img">{title}', svg, count=1)

    return _DIAGRAM.sub(drawn, html)
