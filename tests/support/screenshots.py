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
STYLES = ("checker", "dots", "dunes", "rose", "wood", "neon")  # the last one is the first in the list
SEED = "3"


def take(browser: Browser, url: str) -> None:
    desktop = browser.new_page(viewport={"width": 1280, "height": 800})
    desktop.goto(url)
    for name in STYLES:
        desktop.get_by_label("Add a style", exact=True).set_input_files(SAMPLES / f"{name}.png")
        expect(desktop.get_by_role("button", name=name, exact=True)).to_be_visible()
    draw(desktop, "a red house", "In all my styles", len(STYLES))
    save(desktop, "playground.webp")
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
