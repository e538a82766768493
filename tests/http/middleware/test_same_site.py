"""Without API keys: loopback names and allowed hosts alone, and no changes from pages of other sites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.settings import Settings, read_settings
from tests.support.api_keys import Key, lines
from tests.support.generations import error_of
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture

STYLES = "/v1/styles"
PAGE = "https://app.example"


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


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server without keys that pages of one origin may use."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("open"), cors_origins=f"http://a.example:81, {PAGE}")
    with serving(settings, tiny_generator()) as running:
        running.wait_until_settled()
        yield running


def test_pages_of_an_allowed_origin_may_change_things_and_read_the_answer(open_server: Running) -> None:
    headers = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    with open_server.client() as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = client.options(STYLES, headers=headers | asked)
        assert preflight.status_code == 200
        assert "authorization" in preflight.headers["Access-Control-Allow-Headers"]
        response = client.post(STYLES, files={"image": ("a.png", picture(1))}, headers=headers)
        assert response.status_code == 201
        refused = client.post("/v1/images/generations", json={}, headers=headers)
        assert error_of(refused, 400)["param"] == "prompt"
    for answer in (preflight, response, refused):
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "Server-Timing" in refused.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", "https://app.example:444", "null"]
)
def test_other_origins_stay_refused_beside_an_allowed_one(open_server: Running, origin: str) -> None:
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    with open_server.client() as client:
        assert (
            client.options(STYLES, headers=headers | {"Access-Control-Request-Method": "POST"}).status_code
            == 400
        )
        response = client.post(STYLES, files={"image": ("a.png", picture(1))}, headers=headers)
        assert error_of(response, 403)["code"] == "cross_site_request"
        assert "Access-Control-Allow-Origin" not in response.headers
        host = client.post(STYLES, json={}, headers={"Origin": PAGE, "Host": "evil.example"})
        assert error_of(host, 403)["code"] == "host_not_allowed"


def test_pages_read_nothing_unless_their_origin_is_named(client: httpx.Client) -> None:
    response = client.get(STYLES, headers={"Origin": PAGE})
    assert response.status_code == 200
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    "value", ["*", "app.example", "https://app.example/page", "https://a.example https://b.example/"]
)
def test_an_origin_that_is_none_stops_the_start(value: str) -> None:
    with pytest.raises(ValueError, match="ATELIER_CORS_ORIGINS must be origins such as"):
        read_settings(cors_origins=value)
