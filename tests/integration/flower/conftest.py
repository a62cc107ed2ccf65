"""A deployment with something to show, a Flower before it, and a browser before that."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hermes_tasks.errors import ConfigurationError
from hermes_tasks.testing.deployment import TEXT, Deployment
from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey
from hermes_tasks.testing.waiting import wait_until
from tests.integration.flower.server import Flower

pytest.importorskip("flower")
pytest.importorskip("playwright")

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

LOGIN = "operator:swordfish"
#: How long a browser may take on a machine with other things to do, ms.
PATIENCE = 60_000
#: Where screenshots are kept, to be looked at; not in the repository.
ARTEFACTS = Path(__file__).parents[3] / "artefacts" / "flower"

#: Sessions whose turns are all written, and sessions that wait for a Honcho that is away.
WRITTEN, HELD = 6, 4


@dataclass
class Site:
    """What a test looks at."""

    broker: EmbeddedValkey
    honcho: HonchoServer
    deployment: Deployment
    flower: Flower


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One deployment for all that only look."""
    with _site(tmp_path_factory.mktemp("flower")) as site:
        yield site
        _assert_discreet(site)


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """One for a test that changes what is seen: tests run in any order."""
    with _site(tmp_path) as site:
        yield site
        _assert_discreet(site)


@contextmanager
def _site(directory: Path) -> Iterator[Site]:
    """Some sessions have said something, and some wait."""
    try:
        EmbeddedValkey.program()
    except ConfigurationError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs it: {error}")
        pytest.skip(str(error))
    with (
        EmbeddedValkey() as broker,
        HonchoServer() as honcho,
        # Long enough that nothing changes while a test compares two answers.
        Deployment(broker, honcho, logs=directory, breaker_probe_seconds=600.0) as deployment,
    ):
        flower = Flower(
            {"HERMES_TASKS_BROKER_URL": broker.url},
            directory / "flower.log",
            # Where no flowerconfig.py is, as whoever has installed the package starts it.
            directory=directory,
            prefix="ops",
            login=LOGIN,
        )
        try:
            deployment.start(1, "--pool", "threads", "--concurrency", "4", "--events")
            flower.wait_ready()
            _populate(deployment, honcho)
            yield Site(broker, honcho, deployment, flower)
        finally:
            flower.kill()


def _assert_discreet(site: Site) -> None:
    """Neither who logs in nor what was said is in the log."""
    log = site.flower.log.read_text()
    assert LOGIN not in log
    assert TEXT[:20] not in log
    assert "Traceback" not in log


def _populate(deployment: Deployment, honcho: HonchoServer) -> None:
    """Turns that are written, one that is refused, and some that wait at an open gate."""
    well = deployment.sessions(WRITTEN)
    deployment.send(well, turns=3)
    deployment.wait_until_written(60)
    honcho.control(fail=422)
    deployment.send(well[:1])
    deployment.wait_until_written(60)
    honcho.control(fail=503, times=-1, route="any")
    deployment.send(deployment.sessions(HELD), turns=3)
    wait_until(lambda: deployment.look().held == HELD, 60, "all sessions to be held")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless browser, Debian's."""
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs chromium: apt-get install chromium")
        pytest.skip("chromium is not installed: apt-get install chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as started:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


#: Opens a page of Flower, logged in: site, path, and options of ``Browser.new_context``.
OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """Opens pages in tabs of their own. Nothing on them may fail in silence."""
    user, _, password = LOGIN.partition(":")
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def hear(said: ConsoleMessage) -> None:
        if said.type == "error":
            complaints.append(said.text)

    def open_(site: Site, path: str, **options: Any) -> Page:
        context = chromium.new_context(
            http_credentials={"username": user, "password": password}, **options
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", hear)
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(site.flower.url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    # A browser says so of every answer that is not 200; Redis was away in one of the tests.
    assert [one for one in complaints if "503" not in one] == []
