"""Without API keys: loopback names and allowed hosts alone, and no changes from pages of other sites."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.generations import error_of
from tests.support.server import serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture

STYLES = "/v1/styles"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:80", "app.localhost", "LOCALHOST:1"])
def test_loopback_names_are_let_in(client: httpx.Client, host: str) -> None:
    assert client.get(STYLES, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["", ":80", "evil.example", "localhost.evil.example", "192.168.0.7:8000", "127.0.0.1.nip.io"]
)
def test_other_names_are_refused_also_for_reading(client: httpx.Client, host: str) -> None:
    response = client.get(STYLES, headers={"Host": host})
    error = error_of(response, 403)
    assert error["code"] == "host_not_allowed"
    assert "ATELIER_ALLOWED_HOSTS" in error["message"]
    assert client.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9000"},
    ],
)
def test_pages_of_other_sites_change_nothing(client: httpx.Client, headers: dict[str, str]) -> None:
    response = client.post(STYLES, files={"image": ("a.png", picture(1))}, headers=headers)
    assert error_of(response, 403)["code"] == "cross_site_request"
    assert client.delete(f"{STYLES}/sty_{'a' * 26}", headers=headers).status_code == 403
    assert client.get(STYLES, headers=headers).status_code == 200


def test_the_services_own_pages_may_change_things(client: httpx.Client) -> None:
    own = {"Origin": str(client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    response = client.post(STYLES, files={"image": ("a.png", picture(2))}, headers=own)
    assert response.status_code in (200, 201)


def test_allowed_hosts_are_let_in_and_so_is_everybody_with_keys(tmp_path: Path) -> None:
    named = Settings(data_dir=tmp_path / "named", allowed_hosts="studio.example, other.example")
    with serving(named, tiny_generator()) as server, server.client() as client:
        server.wait_until_settled()
        assert client.get(STYLES, headers={"Host": "studio.example:8000"}).status_code == 200
        assert client.get(STYLES, headers={"Host": "evil.example"}).status_code == 403
    key = Key("app")
    keyed = Settings(data_dir=tmp_path / "keyed", api_keys=lines(key))
    with serving(keyed, tiny_generator()) as server, server.client() as client:
        server.wait_until_settled()
        headers = {"Host": "studio.example", **key.headers, "Origin": "https://app.example"}
        assert client.get(STYLES, headers=headers).status_code == 200
