"""Requests count for their route, also when they are refused before the routing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.access.api_key import Limits
from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.busy_server import metric
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator

acme, limited = Key("acme"), Key("limited", limits=Limits(requests=1))
STYLE = "GET /v1/styles/{style_id}"
GENERATE = "POST /v1/images/generations"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("labels")
    with serving(Settings(data_dir=folder, api_keys=lines(acme, limited)), tiny_generator()) as running:
        running.wait_until_settled()
        yield running


@pytest.fixture
def keyed(server: Running) -> Iterator[httpx.Client]:
    with acme.client(server) as client:
        yield client


def count(client: httpx.Client, code: int, route: str) -> float:
    return metric(client, f'atelier_requests_total{{code="{code}",route="{route}"}}')


def test_a_refusal_for_the_api_key_counts_for_its_route(server: Running, client: httpx.Client) -> None:
    assert client.get("/v1/styles/sty_x").status_code == 401
    assert client.post("/v1/images/generations", json={}).status_code == 401
    assert count(client, 401, STYLE) == count(client, 401, GENERATE) == 1
    assert metric(client, f'atelier_request_duration_seconds_count{{route="{GENERATE}"}}') == 1


def test_a_refusal_for_the_rate_counts_for_its_route(server: Running) -> None:
    with limited.client(server) as client:
        assert client.get("/v1/styles/sty_x").status_code == 404
        assert client.get("/v1/styles/sty_x").status_code == 429
        assert count(client, 404, STYLE) == count(client, 429, STYLE) == 1


def test_a_refusal_for_the_bodys_size_or_the_deadline_counts_for_its_route(keyed: httpx.Client) -> None:
    assert keyed.post("/v1/images/generations", content=bytes(2**20 + 1)).status_code == 413
    assert keyed.get("/v1/models", headers={"X-Request-Timeout": "soon"}).status_code == 400
    assert count(keyed, 413, GENERATE) == count(keyed, 400, "GET /v1/models") == 1


def test_methods_that_a_path_does_not_have_share_one_label(keyed: httpx.Client) -> None:
    for method in ("PUT", "PROPFIND", "TRACE"):
        assert keyed.request(method, "/v1/styles/sty_x").status_code == 405
    assert count(keyed, 405, "other /v1/styles/{style_id}") == 3
    assert "PROPFIND" not in keyed.get("/metrics").text


def test_only_paths_that_do_not_exist_are_unmatched(client: httpx.Client, keyed: httpx.Client) -> None:
    assert client.get("/v1/nowhere").status_code == 401
    assert keyed.get("/v1/nowhere").status_code == 404
    assert keyed.get("/v1/styles/").status_code == 404
    assert count(keyed, 401, "unmatched") == 1
    assert count(keyed, 404, "unmatched") == 2
