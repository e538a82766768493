"""What tests of the playground do on its page, and what they see there."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.support.uploads import picture

AXE_OPTIONS = {"rules": {"target-size": {"enabled": True}}}  # of WCAG 2.2, off by default


def add_style(page: Page, seed: int, name: str) -> None:
    """Pick a picture file, and wait for its card."""
    file: Any = {"name": f"{name}.png", "mimeType": "image/png", "buffer": picture(seed)}
    page.get_by_label("Add a style", exact=True).set_input_files(file)
    expect(styles(page).get_by_role("button", name=name, exact=True)).to_be_visible()


def pick_picture(page: Page, content: bytes, name: str, *, is_read: bool = True) -> None:
    """Pick a file as the picture to edit, and wait until it is shown."""
    ending = name.rpartition(".")[2]
    file: Any = {"name": name, "mimeType": f"image/{ending}", "buffer": content}
    page.get_by_label("Picture to edit", exact=True).set_input_files(file)
    if is_read:
        expect(page.get_by_alt_text("The picture to edit")).to_be_visible()


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
    width, height = (int(image.evaluate(f"image => image.natural{side}")) for side in ("Width", "Height"))
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def copied(page: Page, name: str) -> str:
    button = result(page).get_by_role("button", name=name)
    button.click()
    expect(button.locator("xpath=following-sibling::*")).to_have_text("Copied")
    return str(page.evaluate("navigator.clipboard.readText()"))


def violations_on(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA, and against its best practices."""
    return [
        f"{found['id']}: {', '.join(str(node['target']) for node in found['nodes'])}"
        for found in Axe().run(page, options=AXE_OPTIONS).response["violations"]
    ]


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


def drop_file(page: Page, path: Path, target: Locator) -> None:
    """As a file manager does: the browser itself asks the page whether it may be dropped."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    dragged = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        devtools.send("Input.dispatchDragEvent", {**event, "data": dragged})
    devtools.detach()


def paste_picture(page: Page, content: bytes) -> None:
    """Copy a PNG, as a browser or a screenshot does, and paste it where the focus is."""
    page.evaluate(
        """(bytes) => {
            const png = new Blob([new Uint8Array(bytes)], { type: "image/png" });
            return navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
        }""",
        list(content),
    )
    page.keyboard.press("Control+v")


def places_in_percent(page: Page, region: int) -> list[int]:
    """The sides of a region, as the page shows them."""
    sides = ("Left", "Top", "Right", "Bottom")
    return [int(page.get_by_label(f"{side} of region {region}", exact=True).input_value()) for side in sides]


def field(curl: str, name: str) -> Any:
    """The JSON of a field of a copied form."""
    (text,) = (word for word in shlex.split(curl) if word.startswith(f"{name}="))
    return json.loads(text.partition("=")[2])


def structure_shown(page: Page) -> float:
    return float(page.get_by_role("slider", name="Structure").input_value())
