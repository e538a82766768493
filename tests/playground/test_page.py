"""The playground in a real Chromium, on a real server with nano: what a person does, and what they see."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from service.settings import Settings
from tests.support.api_keys import Key, lines
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
AXE_OPTIONS = {"rules": {"target-size": {"enabled": True}}}  # of WCAG 2.2, off by default
SHARED_PATHS = "atelier_content_paths_shared_total"
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
    button = result(page).get_by_role("button", name=name)
    button.click()
    expect(button.locator("xpath=following-sibling::*")).to_have_text("Copied")
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


def test_all_styles_are_drawn_on_one_content_path_and_a_sweep_on_one_seed(
    client: httpx.Client, page: Page
) -> None:
    add_style(page, 3, "third")
    add_style(page, 4, "fourth")
    before = metric(client, SHARED_PATHS)
    draw(page, button="In all my styles")
    expect(finished(page)).to_have_count(2)
    assert metric(client, SHARED_PATHS) - before == 1
    for label in ("third", "fourth"):
        expect(result(page).get_by_role("listitem").filter(has_text=label)).to_be_visible()
    page.get_by_role("button", name="Strength sweep").click()
    expect(finished(page)).to_have_count(5)
    seed = int(page.get_by_label("Seed", exact=True).input_value())
    plain = {"prompt": "a red star", "seed": seed}
    content = client.post("/v1/images/generations", json=plain, headers={"Accept": "image/png"}).content
    assert (pixels_of(finished(page).first) == pixels(content)).all()


def test_several_chosen_styles_mix_by_weight_and_compare_with_the_plain_picture(
    client: httpx.Client, page: Page
) -> None:
    add_style(page, 3, "third")
    add_style(page, 4, "fourth")
    styles(page).get_by_role("button", name="third", exact=True).click()
    page.get_by_role("slider", name="Weight of third").fill("2")
    page.get_by_role("slider", name="Strength", exact=True).fill("0.8")
    draw(page)
    expect(finished(page)).to_be_visible()
    ids = {style["name"]: style["id"] for style in client.get("/v1/styles").json()["data"]}
    body = json.loads(shlex.split(copied(page, "Copy as curl"))[7])
    assert body["styles"] == [{"id": ids["fourth"], "weight": 1}, {"id": ids["third"], "weight": 2}]
    assert body["strength"] == 0.8
    result(page).get_by_role("button", name="Compare with plain").click()
    slider = result(page).get_by_role("slider", name="Between plain and styled")
    slider.fill("25")
    plain = result(page).get_by_alt_text("The same without a style")
    assert plain.evaluate("image => image.style.clipPath") == "inset(0px 75% 0px 0px)"
    unstyled = {"prompt": body["prompt"], "seed": body["seed"]}
    content = client.post("/v1/images/generations", json=unstyled, headers={"Accept": "image/png"}).content
    assert (pixels_of(plain) == pixels(content)).all()


def test_the_copied_commands_draw_the_same_picture(client: httpx.Client, page: Page, tmp_path: Path) -> None:
    add_style(page, 5, "fifth")
    draw(page, 'a star that isn\'t "blue" $HOME `id` \\ é 🦊')
    expect(finished(page)).to_be_visible()
    shown = pixels_of(finished(page))
    curl = copied(page, "Copy as curl")
    python = copied(page, "Copy as Python")
    need("curl")
    name = curl.split()[-1]
    for command in (["/bin/sh", "-c", curl], [sys.executable, "-c", python]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        assert (pixels((tmp_path / name).read_bytes()) == shown).all()
        (tmp_path / name).unlink()
    with page.expect_download() as saving:
        result(page).get_by_role("button", name="Download").click()
    saving.value.save_as(tmp_path / "saved.png")
    saved = Image.open(tmp_path / "saved.png")
    assert (np.asarray(saved.convert("RGB")) == shown).all()
    assert json.loads(saved.text["parameters"]) == json.loads(shlex.split(curl)[7])  # type: ignore[attr-defined]
    result(page).get_by_text("Where did the time go?").click()
    expect(result(page).get_by_role("row").filter(has_text="the model's steps")).to_be_visible()


def test_the_history_is_there_after_a_reload_and_a_picture_of_it_becomes_a_style(
    client: httpx.Client, page: Page
) -> None:
    draw(page, "a green fish")
    expect(finished(page)).to_be_visible()
    shown = pixels_of(finished(page))
    expect(page.get_by_role("list", name="History").get_by_role("listitem")).to_have_count(1)
    page.reload()
    page.get_by_role("list", name="History").get_by_role("button", name="a green fish").click()
    dialog = page.get_by_role("dialog")
    assert (pixels_of(dialog.locator("[data-state=finished]")) == shown).all()
    dialog.get_by_role("button", name="Use as a style").click()
    expect(styles(page).get_by_role("button", name="a green fish", exact=True)).to_be_visible()
    picked = page.get_by_role("list", name="History").get_by_role("button", name="a green fish")
    picked.click()
    page.get_by_role("button", name="Remove from history").click()
    expect(page.get_by_role("list", name="History")).to_have_count(0)


def test_a_result_is_dragged_back_in_as_a_style(client: httpx.Client, page: Page) -> None:
    draw(page, "a green fish")
    expect(finished(page)).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 1400})  # both ends in view
    finished(page).drag_to(page.get_by_label("Add a style", exact=True))
    expect(styles(page).get_by_role("button", name="a green fish", exact=True)).to_be_visible()


def test_a_pasted_picture_becomes_a_style_and_several_files_can_become_one(
    client: httpx.Client, page: Page
) -> None:
    page.evaluate(
        """(bytes) => {
            const pasted = new DataTransfer();
            pasted.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
            const event = new ClipboardEvent("paste", { clipboardData: pasted, bubbles: true });
            document.body.dispatchEvent(event);
        }""",
        list(picture(9)),
    )
    expect(styles(page).get_by_role("listitem")).to_have_count(1)
    page.get_by_text("From words, a code, or several pictures").click()
    page.get_by_label("Several files become one style, their mean").check()
    files: list[Any] = [
        {"name": f"{seed}.png", "mimeType": "image/png", "buffer": picture(seed)} for seed in (10, 11)
    ]
    page.get_by_label("Add a style", exact=True).set_input_files(files)
    expect(styles(page).get_by_role("listitem")).to_have_count(2)
    mean, pasted = client.get("/v1/styles").json()["data"]
    assert (mean["num_images"], pasted["num_images"], pasted["name"]) == (2, 1, None)


def test_styles_come_from_words_and_codes_and_are_renamed_and_deleted(
    client: httpx.Client, page: Page
) -> None:
    page.get_by_text("From words, a code, or several pictures").click()
    page.get_by_role("textbox", name="Style in words").fill("pixels")
    page.get_by_role("textbox", name="Style in words").press("Enter")
    expect(styles(page).get_by_role("button", name="pixels", exact=True)).to_be_visible()
    (style,) = client.get("/v1/styles").json()["data"]
    page.get_by_role("button", name="Details of pixels").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Copy code").click()
    expect(dialog.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == style["code"]
    dialog.get_by_role("textbox", name="Name").fill("squares")
    dialog.get_by_role("button", name="Rename").click()
    expect(dialog.get_by_text("Renamed.")).to_be_visible()
    assert client.get(f"/v1/styles/{style['id']}").json()["name"] == "squares"
    dialog.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Really delete it?").click()
    expect(styles(page).get_by_role("listitem")).to_have_count(0)
    assert client.get(f"/v1/styles/{style['id']}").status_code == 404
    page.get_by_role("textbox", name="Style code").fill(style["code"])
    page.get_by_role("button", name="Add: style code").click()
    expect(styles(page).get_by_role("listitem")).to_have_count(1)


def test_an_error_is_shown_in_the_services_words_beside_its_control(client: httpx.Client, page: Page) -> None:
    page.get_by_label("Count", exact=True).fill("11")
    draw(page)
    body = {"prompt": "a red star", "n": 11}
    error = client.post("/v1/images/generations", json=body).json()["error"]
    assert error["param"] == "n"
    count = page.get_by_label("Count", exact=True)
    expect(count).to_have_accessible_description(error["message"])
    expect(count).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert").filter(has_text=error["message"])).to_be_visible()
    wrong: Any = {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.get_by_label("Add a style", exact=True).set_input_files(wrong)
    refused = upload(client, b"no picture").json()["error"]["message"]
    expect(page.get_by_label("Add a style", exact=True)).to_have_accessible_description(refused)


def test_a_full_queue_is_counted_down_and_tried_again_and_a_lost_connection_too(
    client: httpx.Client, page: Page
) -> None:
    answers = [
        lambda route: route.fulfill(
            status=429,
            headers={"Retry-After": "2", "Content-Type": "application/json"},
            body=json.dumps(
                {"error": {"message": "The queue is full.", "param": None, "code": "queue_full"}}
            ),
        ),
        lambda route: route.abort("connectionreset"),
        lambda route: route.continue_(),
    ]
    page.clock.install()
    page.route("**/v1/images/generations", lambda route: answers.pop(0)(route))
    draw(page)
    expect(result(page).get_by_text("The queue is full. Trying again in 2 s.")).to_be_visible()
    page.clock.run_for(1000)
    expect(result(page).get_by_text("The queue is full. Trying again in 1 s.")).to_be_visible()
    page.clock.run_for(1000)
    expect(
        result(page).get_by_text("The connection to the service was lost. Trying again in 1 s.")
    ).to_be_visible()
    page.clock.run_for(1000)
    expect(finished(page)).to_be_visible()
    assert answers == []


def violations_on(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA, and against its best practices."""
    return [
        f"{found['id']}: {', '.join(str(node['target']) for node in found['nodes'])}"
        for found in Axe().run(page, options=AXE_OPTIONS).response["violations"]
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_axe_finds_nothing_on_any_screen(
    client: httpx.Client, page: Page, scheme: Literal["light", "dark"], width: int
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.get_by_role("button", name="Sample rose")).to_be_visible()
    page.get_by_text("From words, a code, or several pictures").click()
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
    assert {screen: violations for screen, violations in found.items() if violations} == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width


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
    page.goto(server.url, wait_until="networkidle")
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


def test_a_warning_of_the_service_is_shown_with_the_picture(client: httpx.Client, page: Page) -> None:
    answer = client.post("/v1/images/generations", json={"prompt": "qwertz"}).json()
    draw(page, "qwertz")
    expect(finished(page)).to_be_visible()
    expect(result(page).get_by_text(answer["warnings"][0], exact=True)).to_be_visible()
