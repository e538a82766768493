"""Edits on the page: a picture, a painted mask, regions with a style each, their commands and history."""

from __future__ import annotations

import base64
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.busy_server import metric
from tests.support.playground import (
    add_style,
    copied,
    draw,
    finished,
    pick_picture,
    pixels,
    pixels_of,
    result,
    styles,
)
from tests.support.tools import need
from tests.support.uploads import picture

pytestmark = pytest.mark.slow

PHOTO = picture(20, size=(96, 64))
CUT = slice(16, 80)  # its columns that are left at nano's size, 64 x 64
PROMPT = '@a star that isn\'t "blue";\n$HOME `id` \\ é 🦊'
FEATHER = 8
SHARED_PATHS = "atelier_content_paths_shared_total"


def drag(page: Page, selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With the mouse, between two places in shares of an element."""
    element = page.locator(selector)
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    assert box is not None
    (x, y), (to_x, to_y) = (
        (box["x"] + box["width"] * across, box["y"] + box["height"] * down) for across, down in (start, end)
    )
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(to_x, to_y, steps=5)
    page.mouse.up()


def paint_left_half(page: Page) -> None:
    page.get_by_role("button", name="Paint a mask").click()
    page.get_by_role("slider", name="Brush").fill("0.5")
    drag(page, ".frame", (0.25, 0.05), (0.25, 0.95))


def saved(page: Page, name: str, folder: Path) -> Path:
    with page.expect_download() as saving:
        result(page).get_by_role("button", name=f"Save {name}").click()
    assert saving.value.suggested_filename == name
    saving.value.save_as(folder / name)
    return folder / name


def alpha_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as mask:
        return np.asarray(mask.getchannel("A"))


def structure_shown(page: Page) -> float:
    return float(page.get_by_role("slider", name="Structure").input_value())


def field(curl: str, name: str) -> Any:
    """The JSON of a field of a copied form."""
    (text,) = (word for word in shlex.split(curl) if word.startswith(f"{name}="))
    return json.loads(text.partition("=")[2])


def test_a_picture_is_edited_inside_a_mask_and_the_copied_commands_draw_the_same(
    client: httpx.Client, page: Page, tmp_path: Path
) -> None:
    add_style(page, 1, "blocks")
    pick_picture(page, PHOTO, "my photo (1).png")
    page.get_by_role("slider", name="Structure").fill("0.8")
    paint_left_half(page)
    draw(page, PROMPT)
    expect(finished(page)).to_be_visible()
    shown = pixels_of(finished(page))
    changed = np.abs(shown.astype(int) - pixels(PHOTO)[:, CUT]).max(axis=(0, 2)) > 0
    assert changed[: 32 - FEATHER].all()
    assert not changed[32 + FEATHER :].any()
    curl, python = copied(page, "Copy as curl"), copied(page, "Copy as Python")
    need("curl")
    assert field(curl, "structure") == 0.8
    seed = page.get_by_label("Seed", exact=True).input_value()
    assert saved(page, "my-photo-1.png", tmp_path).read_bytes() == PHOTO
    saved(page, f"my-photo-1-mask-{seed}.png", tmp_path)
    name = curl.split()[-1]
    for command in (["/bin/sh", "-c", curl], [sys.executable, "-c", python]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        assert (pixels((tmp_path / name).read_bytes()) == shown).all()
        (tmp_path / name).unlink()


def test_an_edit_is_found_in_the_history_after_a_reload_and_drawn_again(
    client: httpx.Client, page: Page
) -> None:
    add_style(page, 1, "blocks")
    pick_picture(page, PHOTO, "photo.png")
    paint_left_half(page)
    draw(page, "")
    expect(finished(page)).to_be_visible()
    shown = pixels_of(finished(page))
    assert field(copied(page, "Copy as curl"), "structure") == structure_shown(page) == 0.75  # by default
    page.reload()
    entry = page.get_by_role("list", name="History").get_by_role("button", name="photo.png, restyled")
    entry.click()
    page.get_by_role("dialog").get_by_role("button", name="Draw again").click()
    expect(finished(page)).to_be_visible()
    assert (pixels_of(finished(page)) == shown).all()
    expect(page.get_by_alt_text("The picture to edit")).to_be_visible()
    expect(page.get_by_text("Only what is painted changes.")).to_be_visible()
    result(page).get_by_role("button", name="Compare with before").click()
    result(page).get_by_role("slider", name="Between before and after").fill("100")
    before = result(page).get_by_alt_text("The picture before")
    assert (pixels_of(before) == pixels(PHOTO)).all()
    page.get_by_role("button", name="Remove the picture").click()
    expect(page.get_by_alt_text("The picture to edit")).to_have_count(0)
    page.get_by_role("button", name="Clear history").click()
    page.get_by_role("button", name="Really clear it?").click()
    page.reload()
    expect(page.get_by_role("button", name="blocks", exact=True)).to_be_visible()
    expect(page.get_by_role("list", name="History")).to_have_count(0)


def test_a_mask_is_painted_erased_and_inverted_by_keys(page: Page, tmp_path: Path) -> None:
    pick_picture(page, PHOTO, "photo.png")
    page.get_by_role("button", name="Paint a mask").click()
    mask = page.get_by_role("application", name="Mask")
    mask.focus()
    for key in ("ArrowLeft",) * 5 + ("Space",):  # to 25 %
        page.keyboard.press(key)
    page.keyboard.down("Space")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.up("Space")
    page.keyboard.press("ArrowUp")  # not painted any more
    expect(page.get_by_text("Brush at 25 %, 39 %")).to_be_attached()
    draw(page, "a red star")
    expect(finished(page)).to_be_visible()
    seed = page.get_by_label("Seed", exact=True).input_value()
    assert field(copied(page, "Copy as curl"), "structure") == structure_shown(page) == 0  # by default
    alpha = alpha_of(saved(page, f"photo-mask-{seed}.png", tmp_path))
    assert alpha.shape == (64, 96)
    assert [alpha[32, 24], alpha[28, 24], alpha[32, 72], alpha[18, 24]] == [0, 0, 255, 255]
    assert 0.01 < (alpha < 128).mean() < 0.05
    page.get_by_role("button", name="Invert").click()
    page.get_by_role("button", name="Erase").click()
    mask.focus()
    page.keyboard.press("Space")
    draw(page, "a red star")
    expect(result(page).get_by_text("Done in")).to_be_visible()
    seed = page.get_by_label("Seed", exact=True).input_value()
    alpha = alpha_of(saved(page, f"photo-mask-{seed}.png", tmp_path))
    assert [alpha[32, 24], alpha[32, 72], alpha[24, 24]] == [255, 0, 255]
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.get_by_role("button", name="Clear", exact=True)).to_be_visible()
    draw(page, "a red star")
    expect(result(page).get_by_role("button", name="Save photo-mask")).to_have_count(0)


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
    page.get_by_text("Place in percent").click()
    page.get_by_role("spinbutton", name="Left of region 1").fill("60")
    draw(page)
    style = page.get_by_role("combobox", name="Style of region 1")
    expect(style).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("listitem").get_by_role("alert")).to_contain_text(
        "A box is [left, top, right, bottom]"
    )
