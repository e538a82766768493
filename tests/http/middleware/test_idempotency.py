"""Idempotency-Key: the same POST again gets the same answer; another one, or one still running, does not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from service.settings import Settings
from service.storage.embedded_valkey.server import EmbeddedValkey
from tests.support.api_keys import Key, lines
from tests.support.busy_server import busy, metric
from tests.support.gated_generator import GatedGenerator
from tests.support.generations import GENERATIONS
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture

pytestmark = pytest.mark.slow

EDITS = "/v1/images/edits"
STAR: dict[str, Any] = {"prompt": "a star"}


def draw(client: httpx.Client, key: str, body: dict[str, Any] = STAR, **headers: str) -> httpx.Response:
    return client.post(GENERATIONS, json=body, headers={"Idempotency-Key": key} | headers)


def is_replayed(response: httpx.Response) -> bool:
    return response.headers.get("Idempotent-Replayed") == "true"


def test_the_same_request_again_gets_the_same_answer(client: httpx.Client) -> None:
    first, again = draw(client, "same"), draw(client, "same")
    assert (first.status_code, again.status_code) == (200, 200)
    assert (is_replayed(first), is_replayed(again)) == (False, True)
    assert again.content == first.content  # its random seed too
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert draw(client, "other").content != first.content


def test_a_raw_image_is_replayed_with_its_headers(client: httpx.Client) -> None:
    first, again = (draw(client, "raw", Accept="image/webp") for _ in range(2))
    assert is_replayed(again)
    assert again.content == first.content
    for name in ("Content-Type", "Content-Length", "X-Seed", "X-Content-Type-Options"):
        assert again.headers[name] == first.headers[name]


def test_an_upload_is_replayed_though_its_boundary_is_another(client: httpx.Client) -> None:
    def posted(seed: int, name: str) -> httpx.Response:
        files = {"image": ("style.png", picture(seed), "image/png")}
        headers = {"Idempotency-Key": "upload"}
        return client.post("/v1/styles", files=files, data={"name": name}, headers=headers)

    first, again = posted(60, "reeds"), posted(60, "reeds")
    assert first.request.headers["Content-Type"] != again.request.headers["Content-Type"]
    assert (first.status_code, again.status_code, is_replayed(again)) == (201, 201, True)
    assert again.headers["Location"] == first.headers["Location"]
    assert [posted(61, "reeds").status_code, posted(60, "moss").status_code] == [422, 422]


def test_another_request_under_the_key_is_refused(client: httpx.Client) -> None:
    draw(client, "reused")
    for refused in (
        draw(client, "reused", {"prompt": "a heart"}),
        draw(client, "reused", Accept="image/png"),
    ):
        assert refused.status_code == 422
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")
    assert is_replayed(draw(client, "reused"))


def test_the_key_of_one_route_is_free_on_the_other(client: httpx.Client) -> None:
    draw(client, "routes")
    created = client.post(
        "/v1/styles", files={"image": ("a.png", picture(62))}, headers={"Idempotency-Key": "routes"}
    )
    assert created.status_code == 201


def test_a_refusal_is_not_kept_so_that_the_request_can_be_put_right(client: httpx.Client) -> None:
    assert draw(client, "wrong", STAR | {"n": 0}).status_code == 400
    assert draw(client, "wrong", STAR | {"n": 1}).status_code == 200
    assert draw(client, "wrong", STAR | {"n": 0}).status_code == 422


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "naïve"])
def test_a_key_that_is_none_is_refused(client: httpx.Client, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    refused = client.post(GENERATIONS, json=STAR, headers=headers)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "Idempotency-Key"


def test_a_body_over_the_bound_is_refused_under_a_key_too(client: httpx.Client) -> None:
    endless = (b"x" * 2**16 for _ in range(200))
    headers = {"Content-Type": "application/json", "Idempotency-Key": "large"}
    assert client.post(GENERATIONS, content=endless, headers=headers).status_code == 413


def test_each_tenant_has_keys_of_its_own_and_a_replay_costs_no_image(tmp_path: Path) -> None:
    acme, beta = Key("acme"), Key("beta")
    api_keys = lines(acme, beta).replace(acme.line, f"{acme.line} images=1")
    with serving(Settings(data_dir=tmp_path, api_keys=api_keys), tiny_generator()) as server:
        server.wait_until_settled()
        with acme.client(server) as one, beta.client(server) as other:
            first = draw(one, "mine")
            theirs = draw(other, "mine")
            assert (theirs.status_code, is_replayed(theirs)) == (200, False)
            again = draw(one, "mine")
            assert (again.status_code, again.content) == (200, first.content)
            assert draw(one, "next").status_code == 429


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[tuple[Running, GatedGenerator]]:
    generator = GatedGenerator(tiny_generator())
    generator.open()
    with serving(Settings(data_dir=tmp_path), generator) as running:
        running.wait_until_settled()
        generator.batches.clear()
        generator.close()
        try:
            yield running, generator
        finally:
            generator.open()


def test_while_the_first_runs_the_second_gets_409_with_the_time_to_wait(
    gated: tuple[Running, GatedGenerator],
) -> None:
    server, generator = gated
    with server.client() as one, server.client() as other, ThreadPoolExecutor(1) as threads:
        first = threads.submit(draw, one, "running")
        generator.wait_for_batch()
        refused = draw(other, "running")
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "idempotency_key_in_use"
        assert refused.headers["Retry-After"] == "1"
        assert draw(other, "running", {"prompt": "a heart"}).status_code == 422
        generator.open()
        assert first.result().status_code == 200
        assert draw(other, "running").content == first.result().content
    assert len(generator.batches) == 1


def test_the_sdk_raises_its_class_and_by_itself_comes_again_for_the_answer(
    gated: tuple[Running, GatedGenerator],
) -> None:
    server, generator = gated

    def generate(max_retries: int) -> openai.types.ImagesResponse:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=max_retries) as sdk:
            return sdk.images.generate(prompt="a star", extra_headers={"Idempotency-Key": "sdk"})

    with ThreadPoolExecutor(2) as threads, server.client() as client:
        first = threads.submit(generate, 0)
        generator.wait_for_batch()
        with pytest.raises(openai.ConflictError):
            generate(0)
        again = threads.submit(generate, 5)
        while 'refusals_total{reason="idempotency_key_in_use"} 2.0' not in client.get("/metrics").text:
            time.sleep(0.01)
        generator.open()
        assert again.result() == first.result()
    assert len(generator.batches) == 1


def test_our_failure_and_a_disconnected_client_free_the_key(tmp_path: Path) -> None:
    generator = FailingOnce(tiny_generator())
    generator.open()
    with serving(Settings(data_dir=tmp_path), generator) as server, server.client() as client:
        server.wait_until_settled()
        generator.fails = True
        assert draw(client, "fails").status_code == 500
        assert draw(client, "fails").status_code == 200
        generator.close()
        with server.client() as leaving, pytest.raises(httpx.ReadTimeout):
            leaving.post(
                GENERATIONS,
                json=STAR,
                headers={"Idempotency-Key": "leaves"},
                timeout=httpx.Timeout(30, read=0.5),
            )
        generator.open()
        answer = draw(client, "leaves")
        while answer.status_code == 409:  # until the service has noticed
            answer = draw(client, "leaves")
        assert answer.status_code == 200
        assert not is_replayed(answer)


class FailingOnce(GatedGenerator):
    fails = False

    def draw(self, *arguments: Any) -> Any:
        if self.fails:
            self.fails = False
            raise RuntimeError("injected")
        return super().draw(*arguments)


async def test_without_its_store_a_key_is_refused_and_the_image_is_drawn_without_one(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    settings = Settings(data_dir=tmp_path, redis_url=valkey.url)
    with serving(settings, tiny_generator()) as server, server.client() as client:
        server.wait_until_settled()
        await valkey.stop()
        refused = draw(client, "away")
        assert refused.status_code == 503
        assert "leave the header out" in refused.json()["error"]["message"]
        assert client.post(GENERATIONS, json=STAR).status_code == 200


def test_the_document_names_the_header_on_both(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    described = [
        (path, method)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))
    ]
    assert described == [(GENERATIONS, "post"), (EDITS, "post"), ("/v1/styles", "post")]


def test_a_stream_that_its_client_left_is_not_the_answer_of_its_key(tmp_path: Path) -> None:
    body = {"prompt": "a star", "stream": True, "seed": 5}
    with busy(tmp_path, max_queued=4, ping_seconds=0.01) as (server, generator), server.client() as client:
        with client.stream("POST", GENERATIONS, json=body, headers={"Idempotency-Key": "left"}) as response:
            assert next(response.iter_lines()).startswith(":")
            generator.wait_for_batch()
        generator.open()
        running = "atelier_requests_running"
        while metric(client, running) > 1:
            pass
        again = draw(client, "left", body)
        assert not is_replayed(again)
        assert "image_generation.completed" in again.text
