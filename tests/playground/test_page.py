"""The page as a whole: axe on every screen, its size, foreign names, API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.gated_generator import PausingGenerator
from tests.support.playground import (
    add_style,
    draw,
    finished,
    pick_picture,
    result,
    styles,
    violations_on,
)
from tests.support.server import Running, serving
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow


def test_a_page_under_a_foreign_name_gets_nothing_but_the_reason(server: Running, page: Page) -> None:
    """DNS rebinding: the name of another site leads to this machine."""
    page.context.new_page().goto(f"http://evil.example:{server.port}/")
    other = page.context.pages[-1]
    expect(other.get_by_text("'evil.example' is none")).to_be_visible()
    assert styles(other).get_by_role("listitem").count() == 0


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_axe_finds_nothing_on_any_screen(
    client: httpx.Client, page: Page, scheme: Literal["light", "dark"], width: int
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.get_by_role("button", name="Sample rose")).to_be_visible()
    page.get_by_text("From words, a code, or several pictures").click()
    page.get_by_role("button", name="What nano draws").click()
    found = {"empty": violations_on(page)}
    add_style(page, 6, "sixth")
    add_style(page, 7, "seventh")
    styles(page).get_by_role("button", name="sixth", exact=True).click()
    draw(page)
    expect(finished(page)).to_be_visible()
    result(page).get_by_role("button", name="Compare with plain").click()
    expect(result(page).get_by_role("slider")).to_be_visible()
    result(page).get_by_text("Where did the time go?").click()
    found["one picture"] = violations_on(page)
    draw(page, button="In all my styles")
    expect(finished(page)).to_have_count(2)
    found["several pictures"] = violations_on(page)
    result(page).get_by_role("button", name="Open: sixth").click()
    found["a picture"] = violations_on(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Details of sixth").click()
    expect(page.get_by_role("button", name="Copy code")).to_be_visible()
    found["a style"] = violations_on(page)
    page.keyboard.press("Escape")
    draw(page, "")
    expect(page.get_by_role("alert").filter(has_text="prompt")).to_be_visible()
    found["an error"] = violations_on(page)
    pick_picture(page, picture(20), "photo.png")
    page.get_by_role("button", name="Paint a mask").click()
    page.get_by_role("application", name="Mask").press("Space")
    found["a mask"] = violations_on(page)
    page.get_by_role("button", name="Draw a region").click()
    page.get_by_role("button", name="Add a region without drawing").click()
    page.get_by_text("Place in percent").click()
    draw(page, "")
    expect(result(page).get_by_role("button", name="Save photo.png")).to_be_visible()
    found["regions of a picture"] = violations_on(page)
    assert {screen: violations for screen, violations in found.items() if violations} == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width


FIRST_PAINT = """() => new Promise((resolve) => new PerformanceObserver(
    (list) => list.getEntriesByName("first-contentful-paint").length > 0 && resolve()
).observe({ type: "paint", buffered: true }))"""
PLACES = """() => [...document.querySelectorAll(
    "h1, nav, h2, .drop, summary, #prompt, .pick, .chosen, .field > label, .field input, .buttons > *, .stage"
)].map((element) => {
    const { x, y, width, height } = element.getBoundingClientRect();
    return [element.className || element.localName, ...[x, y, width, height].map(Math.round)].join(" ");
})"""


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_painted_before_it_has_its_modules_and_nothing_moves_when_they_run(
    client: httpx.Client, server: Running, browser: Browser, width: int
) -> None:
    upload(client, picture(12), name="twelfth")
    page = browser.new_page(viewport={"width": width, "height": 800})
    held: list[Route] = []
    page.route("**/playground/start.js", lambda route: held.append(route))
    page.goto(server.url, wait_until="commit")
    page.evaluate(FIRST_PAINT)
    assert page.locator("main[inert]").count() == 1  # nothing can be lost before it works
    painted = page.evaluate(PLACES)
    assert any(place.startswith("primary") for place in painted)
    (start,) = held
    start.continue_()
    expect(page.get_by_role("button", name="What nano draws")).to_be_visible()
    expect(styles(page).get_by_role("button", name="twelfth", exact=True)).to_be_visible()
    assert page.evaluate(PLACES) == painted
    assert page.locator("main[inert]").count() == 0
    page.context.close()


def test_the_page_is_small(server: Running, browser: Browser) -> None:
    page = browser.new_page()
    sizes: dict[str, int] = {}
    page.on(
        "requestfinished",
        lambda sent: (
            sizes.update({sent.url: sent.sizes()["responseBodySize"]})
            if sent.resource_type != "image"
            else None
        ),
    )
    page.goto(server.url)
    expect(page.locator("main[inert]")).to_have_count(0)  # it works, with all its modules
    page.wait_for_load_state("networkidle")
    page.context.close()
    assert f"{server.url}/playground/app.js" in sizes
    assert sum(sizes.values()) < 120 * 2**10


def test_with_api_keys_the_page_asks_for_one_and_keeps_it_for_the_tab(
    browser: Browser, generator: PausingGenerator, tmp_path: Path
) -> None:
    key = Key("acme")
    with serving(Settings(data_dir=tmp_path, api_keys=lines(key)), generator) as server:
        server.wait_until_settled()
        page = browser.new_page()
        page.goto(server.url)
        expect(page.get_by_role("alert").filter(has_text="The request has no API key.")).to_be_visible()
        assert violations_on(page) == []
        page.get_by_label("API key").fill("atl_wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_role("alert").filter(has_text="is not one of this service's")).to_be_visible()
        page.get_by_label("API key").fill(key.secret)
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_label("API key")).to_have_count(0)
        add_style(page, 8, "eighth")
        expect(styles(page).locator(".thumbnail img")).to_have_count(1)
        draw(page)
        expect(finished(page)).to_be_visible()
        page.reload()
        expect(styles(page).get_by_role("button", name="eighth", exact=True)).to_be_visible()
        assert page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
        page.context.close()
