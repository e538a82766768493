"""GET /: the page and its files, how they are cached and guarded, and without them."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.generations import error_of
from tests.support.server import serving
from tests.support.tiny import tiny_generator

PAGE = Path(__file__).parents[2] / "service" / "playground"
FILES = [str(file.relative_to(PAGE)) for file in PAGE.rglob("*") if file.suffix in (".js", ".mjs", ".svg")]


def test_the_page_loads_its_own_files_and_no_others(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {*linked} == {"docs", "playground/icon.svg", "playground/start.js"}
    started = re.findall(r'"\./([^"]+)"', client.get("/playground/start.js").text)
    assert {"icon.svg", "start.js", *started} == {*FILES}  # each is asked for at once
    for address in (*linked, *(f"playground/{name}" for name in started)):
        assert client.get(f"/{address}").status_code == 200, address


def test_the_mark_is_the_icon_in_the_first_frame_and_when_the_page_runs(client: httpx.Client) -> None:
    shapes = re.findall(r' (?:d|cx|r|rx|fill)="[^"]+"', (PAGE / "icon.svg").read_text())
    assert len(shapes) == 7
    for address in ("/", "/playground/html.js"):
        text = client.get(address).text
        assert [shape for shape in shapes if shape not in text] == [], address


@pytest.mark.parametrize("name", ["", *(f"playground/{file}" for file in FILES)])
def test_each_file_has_a_strict_policy_and_a_type(client: httpx.Client, name: str) -> None:
    response = client.get(f"/{name}")
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= {*policy}
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"


def test_a_page_that_takes_an_api_key_is_out_of_reach_of_the_page_that_opened_it(
    client: httpx.Client, tmp_path: Path
) -> None:
    assert "Cross-Origin-Opener-Policy" not in client.get("/").headers  # a second renderer, for nothing
    settings = Settings(data_dir=tmp_path, api_keys=lines(Key("acme")))
    with serving(settings, tiny_generator()) as server, server.client() as guarded:
        assert guarded.get("/").headers["Cross-Origin-Opener-Policy"] == "same-origin"


def test_a_file_that_the_browser_knows_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/playground/app.js")
    assert first.headers["Content-Encoding"] == "gzip"
    assert first.headers["Cache-Control"] == "no-cache"
    again = client.get("/playground/app.js", headers={"If-None-Match": f'"other", {first.headers["ETag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    changed = client.get("/playground/app.js", headers={"If-None-Match": '"other"'})
    assert changed.text == first.text
    plain = client.get("/playground/app.js", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.text == first.text


def test_the_page_has_each_style_sheet_in_its_one_style_element_which_the_policy_names(
    client: httpx.Client,
) -> None:
    page = client.get("/")
    (stylesheet,) = re.findall("<style>(.*?)</style>", page.text, re.DOTALL)
    for file in (PAGE / "css").iterdir():
        assert file.read_text() in stylesheet, file.name
    digest = base64.b64encode(hashlib.sha256(stylesheet.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.headers["Content-Security-Policy"].split("; ")


@pytest.mark.parametrize(
    "path",
    ["nothing.js", "../settings.py", "..%2fsettings.py", "vendor", "", "samples/sheet.webp", "css/base.css"],
)
def test_nothing_else_of_the_package_is_served(client: httpx.Client, path: str) -> None:
    assert client.get(f"/playground/{path}").status_code == 404


def test_what_does_not_exist_is_told(client: httpx.Client) -> None:
    assert "/playground/nothing.js" in error_of(client.get("/playground/nothing.js"), 404)["message"]


def test_without_the_playground_the_root_leads_to_the_reference(tmp_path: Path) -> None:
    with (
        serving(Settings(data_dir=tmp_path, playground=False), tiny_generator()) as server,
        server.client() as client,
    ):
        response = client.get("/")
        assert (response.status_code, response.headers["Location"]) == (307, "/docs")
        assert client.get("/playground/app.js").status_code == 404
