"""The openai package raises each of its error classes from our answers, and retries when we say so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from service.access.api_key import Limits
from service.access.idempotency_store import RETRY_SECONDS
from service.http.dependencies import RETRY_SECONDS as NOT_READY_SECONDS
from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.busy_server import busy, metric, wait_for_metric
from tests.support.gated_generator import GatedGenerator
from tests.support.openai_sdk import files_of, sdk_of
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator

pytestmark = pytest.mark.slow

acme, limited = Key("acme"), Key("limited", limits=Limits(requests=100, images=1))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    with serving(Settings(data_dir=folder, api_keys=lines(acme, limited)), tiny_generator()) as running:
        running.wait_until_settled()
        yield running


def keyed(server: Running, secret: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=secret, max_retries=0)


def refused(kind: type[openai.APIStatusError], work: Callable[[], object]) -> openai.APIStatusError:
    with pytest.raises(kind) as raised:
        work()
    assert type(raised.value) is kind
    assert raised.value.request_id is not None
    return raised.value


def draw(sdk: openai.OpenAI, prompt: str = "a star", **headers: str) -> openai.types.ImagesResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return sdk.images.generate(prompt=prompt, extra_headers=named)


def test_a_wrong_key_is_its_authentication_error_and_a_right_one_none(guarded: Running) -> None:
    with keyed(guarded, "atl_wrong") as sdk:
        error = refused(openai.AuthenticationError, lambda: list(sdk.models.list()))
        assert (error.status_code, error.code) == (401, "invalid_api_key")
    with keyed(guarded, acme.secret) as sdk:
        assert [model.id for model in sdk.models.list()] == ["tiny"]


def test_what_does_not_exist_is_its_not_found_error(guarded: Running) -> None:
    with keyed(guarded, acme.secret) as sdk:
        for path, code in (("/styles/sty_x", "style_not_found"), ("/edits", "not_found")):
            error = refused(openai.NotFoundError, lambda path=path: sdk.get(path, cast_to=object))  # type: ignore[misc]
            assert (error.status_code, error.code) == (404, code)


def test_a_rate_limit_is_a_rate_limit_error_with_the_time_to_wait(guarded: Running) -> None:
    with keyed(guarded, limited.secret) as sdk:
        draw(sdk)
        error = refused(openai.RateLimitError, lambda: draw(sdk))
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
    assert 0 < int(error.response.headers["Retry-After"]) <= 60
    assert error.response.headers["x-ratelimit-remaining-images"] == "0"


def test_a_body_over_the_bound_is_its_status_error(guarded: Running) -> None:
    with keyed(guarded, acme.secret) as sdk:
        error = refused(openai.APIStatusError, lambda: draw(sdk, "x" * 2**20))
    assert (error.status_code, error.code) == (413, "payload_too_large")


def test_a_running_key_is_its_conflict_error_and_another_body_its_unprocessable_entity_error(
    tmp_path: Path,
) -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        busy(tmp_path, max_queued=8) as (server, generator),
        sdk_of(server) as sdk,
    ):
        first = threads.submit(draw, sdk, Idempotency_Key="one")
        generator.wait_for_batch()
        error = refused(openai.ConflictError, lambda: draw(sdk, Idempotency_Key="one"))
        assert (error.status_code, error.code) == (409, "idempotency_key_in_use")
        generator.open()
        files = files_of(first.result())
        error = refused(
            openai.UnprocessableEntityError, lambda: draw(sdk, "another prompt", Idempotency_Key="one")
        )
        assert (error.status_code, error.code) == (422, "idempotency_key_reused")
        assert files_of(draw(sdk, Idempotency_Key="one")) == files


def test_a_service_that_is_shutting_down_is_its_internal_server_error(tmp_path: Path) -> None:
    with (
        serving(Settings(data_dir=tmp_path), tiny_generator()) as server,
        server.client() as client,
        sdk_of(server) as sdk,
    ):
        server.wait_until_settled()
        server.loop.call_soon_threadsafe(server.service.close)
        while client.get("/readyz").status_code != 503:
            pass
        error = refused(openai.InternalServerError, lambda: draw(sdk))
    assert (error.status_code, error.code) == (503, "not_ready")
    assert int(error.response.headers["Retry-After"]) >= 1


# Its retries


def patient(server: Running, attempts: list[float], **options: Any) -> openai.OpenAI:
    counting = httpx.Client(event_hooks={"request": [lambda _: attempts.append(time.monotonic())]})
    return sdk_of(server, http_client=counting, **options)


def test_its_retry_of_a_running_key_waits_our_retry_after_and_gets_the_answer(tmp_path: Path) -> None:
    attempts: list[float] = []
    with (
        ThreadPoolExecutor(2) as threads,
        busy(tmp_path, max_queued=8) as (server, generator),
        server.client() as client,
        sdk_of(server) as sdk,
        patient(server, attempts, max_retries=5) as retrying,
    ):
        first = threads.submit(draw, sdk, Idempotency_Key="one")
        generator.wait_for_batch()
        again = threads.submit(draw, retrying, Idempotency_Key="one")
        wait_for_metric(client, 'atelier_refusals_total{reason="idempotency_key_in_use"}', 1)
        generator.open()
        assert files_of(again.result()) == files_of(first.result())
        assert metric(client, "atelier_images_total") == 1
    assert attempts[1] - attempts[0] >= RETRY_SECONDS


def test_its_retry_of_a_service_that_loads_waits_our_retry_after_and_gets_an_image(tmp_path: Path) -> None:
    attempts: list[float] = []
    generator = GatedGenerator(tiny_generator())
    with (
        ThreadPoolExecutor(1) as threads,
        serving(Settings(data_dir=tmp_path), generator) as server,
        server.client() as client,
        patient(server, attempts, max_retries=20) as retrying,
    ):
        image = threads.submit(draw, retrying)
        wait_for_metric(client, 'atelier_requests_total{code="503",route="POST /v1/images/generations"}', 1)
        generator.open()
        assert len(files_of(image.result())) == 1
    assert attempts[1] - attempts[0] >= NOT_READY_SECONDS
