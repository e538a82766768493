"""Styles on the page: from files, by pasting, from words and codes; renamed, deleted, and never markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.support.playground import (
    draw,
    drop_file,
    finished,
    paste_picture,
    pixels,
    pixels_of,
    styles,
)
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow

MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


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


def test_a_pasted_picture_becomes_a_style_and_several_files_can_become_one(
    client: httpx.Client, page: Page
) -> None:
    paste_picture(page, picture(9))
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
    page.get_by_role("textbox", name="Style in words").fill("qwertz")
    page.get_by_role("textbox", name="Style in words").press("Enter")
    warned = page.get_by_text("The text names nothing that nano knows; it draws")
    expect(warned).to_contain_text('Nano does not know in the text: "qwertz".')
    page.get_by_role("button", name="Details of qwertz").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Really delete it?").click()
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


def test_files_are_dropped_from_outside_and_pictures_pasted_as_styles_or_to_edit(
    client: httpx.Client, page: Page, tmp_path: Path
) -> None:
    for name, seed in (("dropped.png", 21), ("photo.png", 22)):
        (tmp_path / name).write_bytes(picture(seed))
    prompt, edited = page.get_by_role("textbox", name="Prompt"), page.get_by_alt_text("The picture to edit")
    drop_file(page, tmp_path / "dropped.png", page.get_by_text("Add a style", exact=True))
    expect(styles(page).get_by_role("button", name="dropped", exact=True)).to_be_visible()
    expect(edited).to_have_count(0)
    drop_file(page, tmp_path / "photo.png", prompt)
    expect(page.get_by_text("photo.png", exact=True)).to_be_visible()
    assert (pixels_of(edited) == pixels(picture(22))).all()
    page.get_by_role("button", name="Remove the picture").click()
    prompt.focus()
    paste_picture(page, picture(23))
    expect(edited).to_be_visible()
    assert (pixels_of(edited) == pixels(picture(23))).all()
    expect(styles(page).get_by_role("listitem")).to_have_count(1)
    (style,) = client.get("/v1/styles").json()["data"]
    kept = client.get(f"/v1/styles/{style['id']}/image").content
    assert (pixels(kept) == pixels(picture(21))).all()
    (tmp_path / "text.txt").write_text("no picture")
    drop_file(page, tmp_path / "text.txt", page.get_by_text("Add a style", exact=True))
    expect(page.get_by_text("That was no picture; PNG, JPEG, WebP and GIF are.")).to_be_visible()


def test_a_result_is_dragged_back_in_as_a_style(client: httpx.Client, page: Page) -> None:
    draw(page, "a green fish")
    expect(finished(page)).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 1400})  # both ends in view
    finished(page).drag_to(page.get_by_label("Add a style", exact=True))
    expect(styles(page).get_by_role("button", name="a green fish", exact=True)).to_be_visible()
