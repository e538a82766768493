"""Edits on the page: a picture, a painted mask, their commands and their history."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect

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
    result,
    structure_shown,
)
from tests.support.tools import need
from tests.support.uploads import picture

pytestmark = pytest.mark.slow

PHOTO = picture(20, size=(96, 64))
CUT = slice(16, 80)  # its columns that are left at nano's size, 64 x 64
PROMPT = '@a star that isn\'t "blue";\n$HOME `id` \\ é 🦊'
FEATHER = 8


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


def test_a_picture_is_edited_inside_a_mask_and_the_copied_commands_draw_the_same(
    client: httpx.Client, page: Page, tmp_path: Path
) -> None:
    add_style(page, 1, "blocks")
    pick_picture(page, PHOTO, "my phötö (1).png")
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
    expect(page.get_by_role("list", name="History")).to_have_count(0)  # once it is cleared in the database
    page.reload()
    expect(page.get_by_role("button", name="blocks", exact=True)).to_be_visible()
    expect(page.get_by_role("list", name="History")).to_have_count(0)


def test_a_strength_sweep_of_a_picture_shows_more_and_more_of_the_style(
    client: httpx.Client, page: Page
) -> None:
    add_style(page, 1, "blocks")
    pick_picture(page, PHOTO, "photo.png")
    draw(page, "", button="Strength sweep")
    expect(finished(page)).to_have_count(5)
    (style,) = client.get("/v1/styles").json()["data"]
    seed = page.get_by_label("Seed", exact=True).input_value()
    for tile, strength in zip(finished(page).all(), (0, 0.25, 0.5, 0.75, 1), strict=True):
        fields = {"style[id]": style["id"], "style[strength]": str(strength), "seed": seed}
        alone = client.post(
            "/v1/images/edits",
            files={"image": ("photo.png", PHOTO, "image/png")},
            data=fields,
            headers={"Accept": "image/png"},
        )
        assert (pixels_of(tile) == pixels(alone.content)).all()
    result(page).get_by_role("button", name="Open: strength 0.25").click()
    expect(page.get_by_role("dialog").get_by_text("photo.png, restyled", exact=True)).to_be_visible()


def test_a_history_from_before_there_were_edits_is_kept(page: Page) -> None:
    page.goto(page.url + "version")
    page.evaluate(
        """async (bytes) => {
            const promised = (request) => new Promise((resolve, reject) =>
                Object.assign(request, { onsuccess: () => resolve(request.result), onerror: reject }));
            await promised(indexedDB.deleteDatabase("atelier"));
            const opening = indexedDB.open("atelier", 1);
            opening.onupgradeneeded = () =>
                opening.result.createObjectStore("results", { keyPath: "id", autoIncrement: true });
            const database = await promised(opening);
            const blob = new Blob([new Uint8Array(bytes)], { type: "image/png" });
            const recipe = { prompt: "a green fish", size: "96x64", seed: 1 };
            const kept = { blob, recipe, label: "without a style", created: 1 };
            await promised(database.transaction("results", "readwrite").objectStore("results").add(kept));
            database.close();
        }""",
        list(PHOTO),
    )
    page.goto(page.url.removesuffix("version"))
    entry = page.get_by_role("list", name="History").get_by_role("button", name="a green fish")
    entry.click()
    page.get_by_role("dialog").get_by_role("button", name="Edit").click()
    expect(page.get_by_text("a-green-fish-1.png", exact=True)).to_be_visible()


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
