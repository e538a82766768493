"""Drawing on the page: previews, cancelling, styles side by side, commands, history, errors and waiting."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.busy_server import metric, wait_for_metric
from tests.support.gated_generator import PausingGenerator
from tests.support.playground import (
    add_style,
    copied,
    draw,
    finished,
    pixels,
    pixels_of,
    result,
    styles,
)
from tests.support.tools import need
from tests.support.uploads import upload

pytestmark = pytest.mark.slow

NUM_STEPS = 5  # of nano, in each image
SHARED_PATHS = "atelier_content_paths_shared_total"
RUNNING_CANCELLED = 'atelier_cancellations_total{queue="generate",when="running"}'


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


def test_a_warning_of_the_service_is_shown_beside_the_prompt_until_that_changes(
    client: httpx.Client, page: Page
) -> None:
    draw(page, "a huose")
    expect(finished(page)).to_be_visible()
    warning = page.get_by_text(
        'Nano does not know in the prompt: "huose" (the nearest that it knows is "house").'
    )
    expect(warning).to_be_visible()
    page.get_by_role("textbox", name="Prompt").fill("a house")
    expect(warning).to_have_count(0)


def test_the_words_that_the_model_draws_are_listed_and_put_into_the_prompt(
    client: httpx.Client, page: Page
) -> None:
    draws = client.get("/v1/models").json()["data"][0]["draws"]
    prompt = page.get_by_role("textbox", name="Prompt")
    page.get_by_role("button", name="What nano draws").click()
    assert str(prompt.get_attribute("placeholder")).split(" ", 1)[1] in draws["things"]
    for kind in ("Things", "Colours", "Media"):
        listed = page.get_by_role("group", name=kind).get_by_role("button").all_inner_texts()
        assert listed == draws[kind.lower()]
    expected = ["a house", "a red house", "a red house, neon", "a red cat, neon", "an orange cat, neon"]
    expected += ["an orange cat, pixel"]
    for word, text in zip(["house", "red", "neon", "cat", "orange", "pixel"], expected, strict=True):
        page.get_by_role("region", name="What nano draws").get_by_role(
            "button", name=word, exact=True
        ).click()
        expect(prompt).to_have_value(text)
    things = [f"thing {number}" for number in range(99)]
    listed_models = {
        "data": [{**client.get("/v1/models").json()["data"][0], "draws": {**draws, "things": things}}]
    }
    page.route("**/v1/models", lambda route: route.fulfill(json=listed_models))
    page.reload()
    page.get_by_role("button", name="What nano draws").click()
    search = page.get_by_role("searchbox", name="Search things")
    search.fill("THING 7")
    expect(page.get_by_role("group", name="Things").get_by_role("button")).to_have_count(11)
    search.fill("thing 71")
    search.press("Enter")
    expect(prompt).to_have_value("a thing 71")
    search.fill("fox")
    expect(page.get_by_text("nano draws no “fox”.")).to_be_visible()


def test_without_styles_a_drawing_that_needs_some_says_so(client: httpx.Client, page: Page) -> None:
    draw(page, button="In all my styles")
    expect(page.get_by_role("alert").filter(has_text="There is no style yet: add one first.")).to_be_visible()
    page.get_by_role("button", name="Strength sweep").click()
    expect(page.get_by_role("alert").filter(has_text="A strength sweep needs a style")).to_be_visible()
