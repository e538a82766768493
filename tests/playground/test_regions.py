"""Regions on the page, and edits that are drawn in all styles; errors beside what they concern."""

from __future__ import annotations

import base64
import io
import json
import shlex

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.busy_server import metric
from tests.support.playground import (
    add_style,
    copied,
    drag,
    draw,
    field,
    finished,
    pick_picture,
    pixels,
    pixels_of,
    places_in_percent,
    styles,
)
from tests.support.uploads import picture

pytestmark = pytest.mark.slow

PHOTO = picture(20, size=(96, 64))
SHARED_PATHS = "atelier_content_paths_shared_total"


def test_regions_are_drawn_moved_and_changed_and_each_has_its_style(client: httpx.Client, page: Page) -> None:
    add_style(page, 3, "third")
    add_style(page, 4, "fourth")
    page.get_by_role("button", name="Styles by region").click()
    drag(page, ".boxes", (0.1, 0.1), (0.4, 0.9))
    drag(page, ".boxes", (0.5, 0.1), (0.7, 0.5))
    second = page.get_by_role("button", name="Region 2:")
    drag(page, "[data-index='1']", (0.5, 0.5), (1.0, 1.0))  # by half of its size
    second.focus()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowDown", "Shift+ArrowRight"):
        page.keyboard.press(key)
    page.get_by_role("combobox", name="Style of region 2").select_option(label="third")
    page.get_by_role("slider", name="Strength of region 2").fill("0.5")
    page.get_by_role("button", name="Add a region without drawing").click()
    page.get_by_role("button", name="Region 3:").press("Delete")
    draw(page)
    expect(finished(page)).to_be_visible()
    body = json.loads(shlex.split(copied(page, "Copy as curl"))[7])
    ids = {style["name"]: style["id"] for style in client.get("/v1/styles").json()["data"]}
    first, other = body["regions"]
    assert (first["style"], first["strength"]) == (ids["fourth"], 1)
    assert (other["style"], other["strength"]) == (ids["third"], 0.5)
    assert np.abs(np.subtract(first["box"], [0.1, 0.1, 0.4, 0.9])).max() < 0.02
    assert np.abs(np.subtract(other["box"], [0.58, 0.28, 0.8, 0.7])).max() < 0.02
    answer = client.post("/v1/images/generations", json=body, headers={"Accept": "image/png"})
    assert (pixels_of(finished(page)) == pixels(answer.content)).all()
    page.get_by_role("button", name="In all my styles").click()
    expect(page.get_by_role("alert").filter(has_text="remove the regions first")).to_be_visible()


def test_a_regions_corner_resizes_it_by_pointer_and_by_keys(client: httpx.Client, page: Page) -> None:
    add_style(page, 3, "third")
    page.get_by_role("button", name="Styles by region").click()
    page.get_by_role("button", name="Add a region without drawing").click()
    page.get_by_text("Place in percent").click()
    assert places_in_percent(page, 1) == [0, 0, 50, 100]
    frame = page.locator(".frame").bounding_box()
    assert frame is not None
    grip = (20 / frame["width"], 20 / frame["height"])  # its size in shares of the frame
    drag(page, ".grip", (0.5, 0.5), (0.5 + 0.25 / grip[0], 0.5 - 0.4 / grip[1]))
    for found, wanted in zip(places_in_percent(page, 1), [0, 0, 75, 60], strict=True):
        assert abs(found - wanted) <= 1
    page.get_by_label("Right of region 1", exact=True).fill("70")
    page.get_by_label("Bottom of region 1", exact=True).fill("60")
    region = page.get_by_role("button", name="Region 1:")
    for key in ("Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowUp", "ArrowDown"):
        region.press(key)
    assert places_in_percent(page, 1) == [0, 2, 74, 60]
    for _ in range(20):
        region.press("Shift+ArrowRight")
    assert places_in_percent(page, 1) == [0, 2, 100, 60]  # not beyond the image
    drag(page, ".grip", (0.5, 0.5), (-60.0, -60.0))
    assert places_in_percent(page, 1) == [0, 2, 4, 6]  # nor to nothing
    draw(page)
    expect(finished(page)).to_be_visible()
    (region_sent,) = json.loads(shlex.split(copied(page, "Copy as curl"))[7])["regions"]
    assert np.allclose(region_sent["box"], [0, 0.02, 0.04, 0.06])


def test_a_result_is_dragged_onto_the_prompt_and_drawn_in_all_styles_and_in_regions(
    client: httpx.Client, page: Page
) -> None:
    add_style(page, 3, "third")
    add_style(page, 4, "fourth")
    draw(page, "a green fish")
    expect(finished(page)).to_be_visible()
    file = pixels_of(finished(page))
    page.set_viewport_size({"width": 1280, "height": 1400})  # both ends in view
    finished(page).drag_to(page.get_by_role("textbox", name="Prompt"))
    expect(page.get_by_alt_text("The picture to edit")).to_be_visible()
    expect(styles(page).get_by_role("listitem")).to_have_count(2)
    before = metric(client, SHARED_PATHS)
    draw(page, "", button="In all my styles")
    expect(finished(page)).to_have_count(2)
    assert metric(client, SHARED_PATHS) - before == 1
    buffer = io.BytesIO()
    Image.fromarray(file).save(buffer, "PNG")
    ids = {style["name"]: style["id"] for style in client.get("/v1/styles").json()["data"]}
    body = {"image": base64.b64encode(buffer.getvalue()).decode(), "style": ids["fourth"]}
    body |= {"seed": int(page.get_by_label("Seed", exact=True).input_value())}
    answer = client.post("/v1/images/edits", json=body, headers={"Accept": "image/png"})
    assert (pixels_of(finished(page).first) == pixels(answer.content)).all()
    page.get_by_role("button", name="Draw a region").click()
    drag(page, ".boxes", (0.5, 0.5), (0.5, 0.5))  # a tap
    draw(page, "")
    expect(finished(page)).to_have_count(1)
    (region,) = field(copied(page, "Copy as curl"), "regions")
    assert np.abs(np.subtract(region["box"], [0.3, 0.3, 0.7, 0.7])).max() < 0.02


def test_errors_of_edits_are_beside_the_controls_that_they_concern(client: httpx.Client, page: Page) -> None:
    page.get_by_role("button", name="Styles by region").click()
    expect(page.get_by_text("Add a style first: each region is drawn in one.")).to_be_visible()
    pick_picture(page, b"no picture", "broken.png", is_read=False)
    expect(page.get_by_text("This browser cannot read that as a picture")).to_be_visible()
    add_style(page, 3, "third")
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    pick_picture(page, animated.getvalue(), "moving.gif")
    draw(page)
    board = page.locator(".board")
    expect(board.get_by_role("alert").filter(has_text="animated")).to_be_visible()
    page.get_by_role("button", name="Remove the picture").click()
    pick_picture(page, PHOTO, "photo.png")
    page.get_by_role("button", name="Do not use third").click()
    draw(page, "")
    prompt = page.locator(".field-prompt").get_by_role("alert")
    expect(prompt).to_contain_text("Without a prompt and without a style there is nothing to change")
    page.get_by_role("button", name="Draw a region").click()
    page.get_by_role("button", name="Add a region without drawing").click()
    left = page.get_by_role("spinbutton", name="Left of region 1")
    page.get_by_text("Place in percent").click()
    left.fill("60")
    page.get_by_text("Place in percent").click()
    draw(page)  # opens the place, where the mistake is
    expect(left).to_have_accessible_description("Left of region 1 is 60 %; it must be less than Right, 50 %.")
    expect(left).to_have_attribute("aria-invalid", "true")
    left.fill("0")
    page.get_by_role("spinbutton", name="Bottom of region 1").fill("120")
    draw(page)
    expect(left).to_have_accessible_description("Bottom of region 1 is 120 %; it must be from 0 to 100 %.")
    page.get_by_role("spinbutton", name="Bottom of region 1").fill("100")
    client.delete(f"/v1/styles/{client.get('/v1/styles').json()['data'][0]['id']}")
    draw(page)
    style = page.get_by_role("combobox", name="Style of region 1")
    expect(style).to_have_attribute("aria-invalid", "true")
    expect(left).not_to_have_attribute("aria-invalid", "true")
