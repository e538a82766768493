"""The playground in a real Chromium, on a real server with nano: what a person does, and what they see."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from service.settings import Settings
from tests.support.browser import chromium
from tests.support.busy_server import metric, wait_for_metric
from tests.support.gated_generator import PausingGenerator
from tests.support.nano import nano
from tests.support.server import Running, serving
from tests.support.tools import need
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow

PATIENCE_MILLISECONDS = 30_000
NUM_STEPS = 6  # of nano, in each image
MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
RUNNING_CANCELLED = 'atelier_cancellations_total{queue="generate",when="running"}'


@pytest.fixture(scope="module")
def generator() -> PausingGenerator:
    return PausingGenerator(nano())


@pytest.fixture(scope="module")
def server(generator: PausingGenerator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    need("chromium")
    with serving(Settings(data_dir=tmp_path_factory.mktemp("playground")), generator) as running:
        running.wait_until_settled()
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with chromium(need("chromium")) as browser:
        yield browser


@pytest.fixture
def page(server: Running, browser: Browser) -> Iterator[Page]:
    """A new visitor's page. Nothing may fail in its console, and nothing be asked of another host."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MILLISECONDS)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("request", lambda sent: failures.append(sent.url) if is_elsewhere(sent.url, server) else None)
    page.goto(server.url)
    yield page
    context.close()
    assert not failures


def is_elsewhere(url: str, server: Running) -> bool:
    return not url.startswith((f"{server.url}/", "data:", "blob:"))


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """Of a store without styles, whichever test ran before."""
    with server.client() as client:
        for style in client.get("/v1/styles").json()["data"]:
            client.delete(f"/v1/styles/{style['id']}")
        yield client


def add_style(page: Page, seed: int, name: str) -> None:
    """Pick a picture file, and wait for its card."""
    file: Any = {"name": f"{name}.png", "mimeType": "image/png", "buffer": picture(seed)}
    page.get_by_label("Add a style", exact=True).set_input_files(file)
    expect(styles(page).get_by_role("button", name=name, exact=True)).to_be_visible()


def styles(page: Page) -> Locator:
    return page.get_by_role("list", name="Styles", exact=True)


def result(page: Page) -> Locator:
    return page.get_by_role("region", name="Result")


def finished(page: Page) -> Locator:
    return result(page).locator("[data-state=finished]")


def draw(page: Page, prompt: str = "a red star", button: str = "Draw") -> None:
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.get_by_role("button", name=button, exact=True).click()


def pixels(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def pixels_of(image: Locator) -> Any:
    """What the page shows, at the size of the file."""
    values = image.evaluate(
        """async (image) => {
            await image.decode();
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
        }"""
    )
    return np.array(values, np.uint8).reshape(64, 64, 4)[..., :3]


def copied(page: Page, name: str) -> str:
    result(page).get_by_role("button", name=name).click()
    expect(result(page).get_by_text("Copied")).to_be_visible()
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_a_style_is_added_from_a_file_and_drawn_in_with_previews_first(
    client: httpx.Client, page: Page, generator: PausingGenerator
) -> None:
    add_style(page, 1, "blocks")
    generator.pause_after(NUM_STEPS - 1)
    draw(page)
    generator.wait_until_paused()
    preview = result(page).locator("[data-state=preview]")
    expect(preview).to_be_visible()
    assert 0 < float(result(page).get_by_role("progressbar").get_attribute("value") or 0) < 1
    assert finished(page).count() == 0
    generator.resume()
    expect(finished(page)).to_be_visible()
    expect(preview).to_have_count(0)
    (style,) = client.get("/v1/styles").json()["data"]
    assert style["name"] == "blocks"
    seed = int(page.get_by_label("Seed", exact=True).input_value())
    body = {"prompt": "a red star", "seed": seed, "style": style["id"]}
    alone = client.post("/v1/images/generations", json=body, headers={"Accept": "image/png"}).content
    assert (pixels_of(finished(page)) == pixels(alone)).all()


def test_cancel_stops_the_model(client: httpx.Client, page: Page, generator: PausingGenerator) -> None:
    before = metric(client, RUNNING_CANCELLED)
    generator.pause_after(3)
    draw(page)
    generator.wait_until_paused()
    result(page).get_by_role("button", name="Cancel").click()
    expect(result(page).get_by_text("Cancelled.")).to_be_visible()
    wait_for_metric(client, RUNNING_CANCELLED, before + 1)
    generator.resume()
    draw(page, "a blue star")  # waits for the model, which has one batch at a time
    expect(finished(page)).to_be_visible()
    assert generator.num_steps_done == 3 + NUM_STEPS


def test_ctrl_enter_draws(page: Page) -> None:
    page.get_by_role("textbox", name="Prompt").fill("a red star")
    page.get_by_role("textbox", name="Prompt").press("Control+Enter")
    expect(finished(page)).to_be_visible()


def test_a_name_and_a_prompt_never_become_markup(client: httpx.Client, page: Page) -> None:
    upload(client, picture(2), name=MARKUP)
    page.reload()
    card = styles(page).get_by_role("button", name=MARKUP, exact=True)
    card.click()
    draw(page, f"a star {MARKUP}")
    expect(finished(page)).to_be_visible()
    for text in (MARKUP, f"a star {MARKUP}"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    assert page.title() == "Atelier"
    assert page.locator("img[src=x], #app script").count() == 0


def test_a_page_under_a_foreign_name_gets_nothing_but_the_reason(server: Running, page: Page) -> None:
    """DNS rebinding: the name of another site leads to this machine."""
    page.context.new_page().goto(f"http://evil.example:{server.port}/")
    other = page.context.pages[-1]
    expect(other.get_by_text("'evil.example' is none")).to_be_visible()
    assert styles(other).get_by_role("listitem").count() == 0
