"""A real Chromium for tests of the playground, and for its screenshots in the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

FLAGS = (
    "--no-sandbox",  # containers run tests as root
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A name of another site that leads here, as DNS rebinding makes one.
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
)


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """The Chromium of the system, headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
