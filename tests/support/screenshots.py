"""Takes the screenshots of the playground in docs/images from the running page: `make screenshots`."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import chromium
from tests.support.process import ROOT, serve

IMAGES = ROOT / "docs" / "images"
SAMPLES = ROOT / "service" / "playground" / "samples"
# The last one is the first in the list.
STYLES = ("sunset", "watercolour", "stripes", "dots", "dunes", "rose", "wood", "neon")
SEED = "3"


def take(browser: Browser, url: str) -> None:
    desktop = browser.new_page(viewport={"width": 1280, "height": 800})
    desktop.goto(url)
    for name in STYLES:
        desktop.get_by_label("Add a style", exact=True).set_input_files(SAMPLES / f"{name}.png")
        expect(desktop.get_by_role("button", name=name, exact=True)).to_be_visible()
    draw(desktop, "a mushroom", "In all my styles", len(STYLES))
    save(desktop, "playground.webp")
    edit(desktop)
    save(desktop, "playground-edit.webp")
    phone = browser.new_context(
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark",
    ).new_page()
    phone.goto(url)
    phone.get_by_role("button", name="wood", exact=True).click()
    draw(phone, "a cat", "Draw", 1)
    save(phone, "playground-phone.webp")


def draw(page: Page, prompt: str, button: str, num_images: int) -> None:
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.get_by_label("Seed", exact=True).fill(SEED)
    page.get_by_role("button", name=button, exact=True).click()
    finished = page.get_by_role("region", name="Result").locator("[data-state=finished]")
    expect(finished).to_have_count(num_images)
    thumbnails = page.get_by_role("list", name="Styles", exact=True).locator(".thumbnail img")
    expect(thumbnails.first).to_be_visible()
    page.mouse.move(0, 0)


def edit(page: Page) -> None:
    """The house on wood, restyled as neon inside a mask."""
    page.get_by_role("button", name="Open: wood").click()
    page.get_by_role("dialog").get_by_role("button", name="Edit").click()
    expect(page.get_by_alt_text("The picture to edit")).to_be_visible()
    page.get_by_role("button", name="Paint a mask").click()
    page.get_by_role("slider", name="Brush").fill("0.3")
    page.evaluate("scrollTo(0, 0)")
    box = page.get_by_role("application", name="Mask").bounding_box()
    assert box is not None
    places = [(0.35, 0.7), (0.65, 0.7), (0.65, 0.8), (0.35, 0.8)]  # the walls
    for index, (across, down) in enumerate(places):
        page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down, steps=5)
        if index == 0:
            page.mouse.down()
    page.mouse.up()
    draw(page, "", "Draw", 1)


def save(page: Page, name: str) -> None:
    """As WebP, which is a third of the PNG."""
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as image:
        image.convert("RGB").save(IMAGES / name, "WEBP", quality=80, method=6)
    print(IMAGES / name)


def main() -> int:
    path = shutil.which("chromium")
    if path is None:
        print("Screenshots need Chromium on PATH as `chromium`.", file=sys.stderr)
        return 1
    expect.set_options(timeout=60_000)
    with TemporaryDirectory() as name:
        folder = Path(name)
        with serve("--data-dir", folder / "data", log=folder / "log") as server, chromium(path) as browser:
            take(browser, server.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
