"""The Sessions tab as a browser shows it, before a deployment whose Honcho has gone away."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from playwright.sync_api import Page, Response, expect

from hermes_tasks.ops.flower.reader import KEPT_SECONDS
from hermes_tasks.testing.deployment import TEXT
from tests.integration.flower.conftest import ARTEFACTS, HELD, WRITTEN, OpenPage, Site
from tests.integration.ops.many import fill
from tests.integration.test_cli import hermes_tasks

#: As hostile as a name can be: it closes every context that it could stand in.
HOSTILE = "default:w:\"'></td><img src=x onerror=alert(1)><script>alert(2)</script>&amp;/../é%00"
SCHEMES = ("light", "dark")
SIZES = {"desk": (1440, 900), "phone": (390, 844)}


def test_every_page_of_flower_has_the_tab_and_it_leads_to_the_page(
    site: Site, open_page: OpenPage
) -> None:
    for path in ("/workers", "/tasks", "/broker"):
        page = open_page(site, path)
        tab = page.get_by_role("navigation").get_by_role("link", name="Sessions")
        expect(tab).to_be_visible()
    tab.click()
    expect(page).to_have_url(f"{site.flower.url}/sessions")
    expect(tab).to_have_attribute("aria-current", "page")
    expect(page.locator("#live-text")).to_contain_text("Updated")


def test_it_shows_the_numbers_of_the_command_line(site: Site, open_page: OpenPage) -> None:
    told = command(site, "status")
    data = site.flower.json("/sessions/data")
    for name in ("accepted", "written", "given_up", "unsettled", "backlog", "dead", "sessions"):
        assert data["overview"][name] == told[name], name
    assert still(data["overview"]["gates"]) == still(told["gates"])
    assert still(data["sessions"]) == still(command(site, "sessions", "list"))

    page = open_page(site, "/sessions")
    assert metric(page, "unsettled") == f"{told['unsettled']}"
    assert metric(page, "written") == f"{told['written']}" == f"{3 * WRITTEN}"
    assert metric(page, "dead") == f"{told['dead']}" == "1"
    expect(page.locator("[data-state=held]")).to_contain_text(f"{HELD}")
    expect(page.locator("#rows tr")).to_have_count(HELD)
    for problem in told["problems"]:
        if problem["severity"] == "wrong":
            what = problem["what"].partition(";")[0]
            expect(page.locator("#verdict")).to_contain_text(what)


def test_the_api_says_the_same_to_programs(site: Site) -> None:
    assert site.flower.json("/api/sessions")["overview"]["accepted"] == 3 * (WRITTEN + HELD) + 1
    name = held(site)
    assert site.flower.json(f"/api/session?id={name}")["session"]["state"] == "held"
    for path, status in (
        ("/api/session?id=nobody", 404),
        ("/api/sessions?state=drowsy", 400),
        ("/api/sessions?cursor=%00", 400),
        ("/api/sessions?limit=many", 400),
        ("/api/sessions?since=nan", 400),
        ("/api/session?id=%ff", 400),
    ):
        found, text = site.flower.answer(path)
        assert (found, list(json.loads(text))) == (status, ["error"]), path


@pytest.mark.parametrize("login", ["", "operator:wrong"], ids=["none", "wrong"])
def test_without_the_login_nothing_is_shown(site: Site, login: str) -> None:
    name = held(site)
    for path in ("/sessions", "/sessions/data", "/api/sessions"):
        assert site.flower.answer(path, login=login)[0] == 401
    for path in ("/session", "/session/data", "/api/session"):
        status, text = site.flower.answer(f"{path}?id={name}", login=login)
        assert status == 401
        assert name not in text


def test_one_session_has_a_page_with_its_queue_its_trace_and_its_turns(
    site: Site, open_page: OpenPage
) -> None:
    page = open_page(site, "/sessions")
    name = held(site)
    page.get_by_role("link", name=name).click()
    expect(page.locator("#name")).to_have_text(name)
    expect(page.locator("#state")).to_have_text("Held")
    expect(page.locator("#queued tr")).to_have_count(3)
    expect(page.locator("#trace")).to_contain_text("held")
    expect(page.locator("#commands")).to_contain_text(f"hermes-tasks sessions show {name}")
    picture(page, "session")

    written = next(iter(site.deployment.sent))
    page = open_page(site, f"/session?id={site.deployment.key(written)}")
    turn = page.locator("#recent a", has_text=f"{written}-t2").first
    expect(turn).to_be_visible()
    turn.click()
    expect(page).to_have_url(f"{site.flower.url}/task/{written}-t2")
    expect(page.locator("body")).to_contain_text("SUCCESS")


def test_what_was_said_is_in_nothing_that_the_browser_gets(site: Site, open_page: OpenPage) -> None:
    page = open_page(site, "/workers")
    bodies: list[str] = []
    page.on("response", lambda response: bodies.append(text_of(response)))
    turn = next(iter(site.deployment.sent)) + "-t0"
    for path in ("/sessions", f"/session?id={held(site)}", f"/task/{turn}", "/tasks", "/broker"):
        page.goto(site.flower.url + path, wait_until="networkidle" if "task" in path else "load")
        if "session" in path:
            expect(page.locator("#live-text")).to_contain_text("Updated")
        bodies.append(page.content())
    assert any(turn in body for body in bodies)
    assert not any(TEXT[:20] in body for body in bodies)


def test_hostile_names_and_errors_are_text(own_site: Site, open_page: OpenPage) -> None:
    store = own_site.deployment.store
    names = store.names
    store.push(HOSTILE, "{}", id=HOSTILE, delay=600.0)
    store.client.hset(names.workers, HOSTILE, f"{int(time.time() * 1000)} 0")
    store.client.hset(names.session(HOSTILE)[0], "trace", f"1763751600000 {HOSTILE}")
    letter: dict[Any, Any] = {
        "session": HOSTILE,
        "id": "x",
        "number": 1,
        "reason": HOSTILE,
        "detail": HOSTILE,
    }
    store.client.xadd(names.dead, letter)
    gate = names.gate(own_site.deployment.gate.name)[0]
    store.client.hset(gate, "denied", HOSTILE)
    page = open_page(own_site, "/sessions")
    for place in ("#verdict", "#gates", "#letters", "#processes"):
        expect(page.locator(place)).to_contain_text(HOSTILE)
    picture(page, "hostile")
    page.locator("#letters a").first.click()
    expect(page.locator("#name")).to_have_text(HOSTILE)
    expect(page.locator("#queued")).to_contain_text(HOSTILE)
    expect(page.locator("#trace")).to_contain_text(HOSTILE)
    # Nobody is asked to paste that into a shell.
    expect(page.locator("#commands-panel")).to_be_hidden()
    assert page.locator("main img, main script").count() == 0


def test_it_goes_on_without_reloading_and_says_when_redis_is_away(
    own_site: Site, open_page: OpenPage
) -> None:
    page = open_page(own_site, "/sessions")
    before = int(metric(page, "unsettled"))
    # What somebody is about to click on, or has selected, is not taken away under the finger.
    link = page.locator("#rows a").first.element_handle()
    own_site.deployment.send(own_site.deployment.sessions(2))
    expect(value(page, "unsettled")).to_have_text(str(before + 2))
    own_site.broker.pause()
    try:
        expect(page.locator("#failure")).to_contain_text("Redis at redis://127.0.0.1")
        # Nothing of Flower's waits for it.
        begun = time.monotonic()
        assert own_site.flower.get("/healthcheck") == "OK"
        assert time.monotonic() - begun < 1.0
        picture(page, "redis-away")
    finally:
        own_site.broker.resume()
    expect(page.locator("#failure")).to_be_empty()
    assert link is not None
    assert link.is_visible()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_into_a_phone_and_follows_light_and_dark(
    site: Site, open_page: OpenPage, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    page = open_page(
        site, "/sessions", viewport={"width": width, "height": height}, color_scheme=scheme
    )
    expect(page.locator(".line-p95").last).to_be_attached()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Whether turns are written can be read without scrolling.
    expect(page.locator("#verdict")).to_be_in_viewport()
    picture(page, f"{size}-{scheme}")


def test_a_hundred_thousand_sessions_make_it_no_slower(own_site: Site) -> None:
    # With none to write them they stay.
    for worker in own_site.deployment.workers:
        worker.close()
    fill(own_site.deployment.store, 100_000, age=60.0)
    taken = []
    for _ in range(3):
        time.sleep(KEPT_SECONDS)  # until then everybody gets the answer that was read before
        begun = time.monotonic()
        found = own_site.flower.json("/sessions/data")
        taken.append(time.monotonic() - begun)
    assert found["overview"]["unsettled"] > 100_000
    assert min(taken) < 0.3


# -- helpers ------------------------------------------------------------------------------------


def command(site: Site, *words: str) -> Any:
    """What a command says as JSON."""
    done = hermes_tasks(*words, "--json", HERMES_TASKS_BROKER_URL=site.broker.url)
    return json.loads(done.stdout)


def held(site: Site) -> str:
    """A session that waits for Honcho."""
    rows = site.flower.json("/sessions/data?state=held")["sessions"]["rows"]
    return str(rows[0]["session"])


#: What is another number a moment later.
MOVING = frozenset({"lag", "now", "probe_at", "wakes_in"})


def still(found: Any) -> Any:
    """The same without what is another number a moment later."""
    if isinstance(found, dict):
        return {name: still(one) for name, one in found.items() if name not in MOVING}
    return [still(one) for one in found] if isinstance(found, list) else found


def value(page: Page, name: str) -> Any:
    return page.locator(f"[data-metric={name}] .metric-value")


def metric(page: Page, name: str) -> str:
    """A number as it stands on the page."""
    shown: str = value(page, name).inner_text()
    return shown


def picture(page: Page, name: str) -> None:
    """Keep what it looks like."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


def text_of(response: Response) -> str:
    """The body of an answer, if it has one that is text."""
    if response.status != 200 or "image" in response.headers.get("content-type", ""):
        return ""
    return response.body().decode(errors="replace")
