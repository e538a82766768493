"""The playground in a real Chromium, on a real server with nano, which all its tests share."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from service.settings import Settings
from tests.support.browser import chromium
from tests.support.gated_generator import PausingGenerator
from tests.support.nano import nano
from tests.support.server import Running, serving
from tests.support.tools import need

PATIENCE_MILLISECONDS = 30_000


@pytest.fixture(scope="package")
def generator() -> PausingGenerator:
    return PausingGenerator(nano())


@pytest.fixture(scope="package")
def server(generator: PausingGenerator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    need("chromium")
    with serving(Settings(data_dir=tmp_path_factory.mktemp("playground")), generator) as running:
        running.wait_until_settled()
        yield running


@pytest.fixture(scope="package")
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
    expect(page.locator("main[inert]")).to_have_count(0)  # it works
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
