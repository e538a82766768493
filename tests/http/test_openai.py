"""The openai package drives the service unchanged: images, streams, its error classes, its retries."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import httpx
import openai
import pytest

from service.settings import Settings
from tests.support.busy_server import busy, post, wait_for_metric, wait_until_queued
from tests.support.gated_generator import FailingGenerator
from tests.support.openai_sdk import files_of, sdk_of
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import is_image, picture, upload

pytestmark = pytest.mark.slow

SIZE = (64, 64)


@pytest.fixture
def sdk(server: Running) -> Iterator[openai.OpenAI]:
    with sdk_of(server) as sdk:
        yield sdk


# Images


def test_it_draws_with_and_without_a_style(sdk: openai.OpenAI, client: httpx.Client) -> None:
    style = upload(client, picture(40)).json()["id"]
    plain = sdk.images.generate(prompt="a star", n=2, extra_body={"seed": 3})
    styled = sdk.images.generate(prompt="a star", extra_body={"seed": 3, "style": style})
    weak = sdk.images.generate(
        prompt="a star", extra_body={"seed": 3, "style": {"id": style, "strength": 0.5}}
    )
    files = [*files_of(plain), *files_of(styled), *files_of(weak)]
    assert len(set(files)) == 4
    assert all(is_image(file, "PNG", SIZE) for file in files)


def test_the_answer_fills_the_fields_of_its_model(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(model="tiny", prompt="a star", user="someone", quality="high")
    assert answer.created > 0
    assert (answer.output_format, answer.quality, answer.background) == ("png", "high", "opaque")
    assert answer.size == "64x64"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("response_format", ["b64_json", None])
def test_every_output_format_is_answered(
    sdk: openai.OpenAI,
    format: Literal["png", "jpeg", "webp"],
    response_format: Literal["b64_json"] | None,
) -> None:
    asked = openai.omit if response_format is None else response_format
    answer = sdk.images.generate(prompt="a star", output_format=format, response_format=asked)
    assert answer.output_format == format
    assert is_image(files_of(answer)[0], format.upper(), SIZE)


def test_output_compression_makes_the_file_smaller(sdk: openai.OpenAI) -> None:
    sizes = [
        len(
            files_of(
                sdk.images.generate(
                    prompt="a star",
                    output_format="webp",
                    output_compression=compression,
                    extra_body={"seed": 3},
                )
            )[0]
        )
        for compression in (5, 100)
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(("size", "drawn"), [("96x64", (96, 64)), ("64x64", SIZE), ("auto", SIZE)])
def test_every_size_is_drawn(sdk: openai.OpenAI, size: str, drawn: tuple[int, int]) -> None:
    (file,) = files_of(sdk.images.generate(prompt="a star", size=size))
    assert is_image(file, "PNG", drawn)


def test_it_lists_the_model(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["tiny"]
    assert sdk.models.retrieve("tiny").owned_by == "atelier"


# Streams


@pytest.mark.parametrize("num_previews", [0, 1, 2, 3])
def test_a_stream_gives_partial_images_and_then_the_image_of_a_plain_request(
    sdk: openai.OpenAI, num_previews: int
) -> None:
    seed = {"seed": 3}
    with sdk.images.generate(
        prompt="a star", stream=True, partial_images=num_previews, extra_body=seed
    ) as stream:
        *partials, completed = stream
    indices = []
    for event in partials:
        assert event.type == "image_generation.partial_image"
        indices.append(event.partial_image_index)
    assert indices == list(range(num_previews))
    assert completed.type == "image_generation.completed"
    assert completed.usage.output_tokens > 0
    assert [base64.b64decode(completed.b64_json)] == files_of(
        sdk.images.generate(prompt="a star", extra_body=seed)
    )


async def test_the_asynchronous_client_streams_too(server: Running) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as sdk:
        stream = await sdk.images.generate(prompt="a star", stream=True, partial_images=2)
        types = [event.type async for event in stream]
    assert types == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


def test_a_failure_in_a_stream_is_raised_with_our_code(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path), FailingGenerator(tiny_generator().backbone)) as server:
        server.wait_until_settled()
        with (
            sdk_of(server) as sdk,
            sdk.images.generate(prompt=FailingGenerator.FAILS_ON, stream=True) as stream,
            pytest.raises(openai.APIError, match="failed on this job") as failure,
        ):
            list(stream)
    assert failure.value.code == "generation_failed"


# Its error classes


def test_refusals_are_its_own_errors_with_our_fields(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="64x64, 96x64") as refused:
        sdk.images.generate(prompt="a star", size="8192x8192")
    assert (refused.value.param, refused.value.code) == ("size", "unsupported_size")
    assert refused.value.request_id is not None
    with pytest.raises(openai.BadRequestError, match="images are opaque"):
        sdk.images.generate(prompt="a star", background="transparent")
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.images.generate(prompt="a star", extra_body={"style": "sty_nobody"})
    assert unknown.value.code == "style_not_found"
    with pytest.raises(openai.NotFoundError) as other:
        sdk.images.generate(prompt="a star", model="dall-e-3")
    assert other.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"\x89PNG\r\n\x1a\n", openai.UnprocessableEntityError, "invalid_image"),
        (bytes(11 * 2**20), openai.APIStatusError, "payload_too_large"),
        (b"%PDF-1.7\n", openai.APIStatusError, "unsupported_media_type"),
    ],
)
def test_refused_uploads_are_its_own_errors(
    sdk: openai.OpenAI, content: bytes, kind: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(kind) as refused:
        sdk.post(
            "/styles",
            cast_to=object,
            files={"image": ("style.png", content)},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
    assert refused.value.code == code


def test_a_full_queue_and_a_deadline_are_its_own_errors(tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor(2) as threads,
        busy(tmp_path, max_queued=1) as (server, generator),
        sdk_of(server) as sdk,
        server.client() as client,
    ):
        running = threads.submit(post, server, {"prompt": "a star"})
        generator.wait_for_batch()
        late = threads.submit(post, server, {"prompt": "a mug"})
        wait_until_queued(client, 1)
        with pytest.raises(openai.RateLimitError) as full:
            sdk.images.generate(prompt="a star")
        assert full.value.code == "queue_full"
        generator.open()
        assert running.result().status_code == late.result().status_code == 200
        generator.close()
        with pytest.raises(openai.InternalServerError) as too_late:
            sdk.images.generate(prompt="a star", extra_headers={"X-Request-Timeout": "0.05"})
        assert (too_late.value.status_code, too_late.value.code) == (504, "deadline_exceeded")
        generator.open()


def test_a_failed_image_is_its_internal_server_error(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path), FailingGenerator(tiny_generator().backbone)) as server:
        server.wait_until_settled()
        with sdk_of(server) as sdk, pytest.raises(openai.InternalServerError) as failed:
            sdk.images.generate(prompt=FailingGenerator.FAILS_ON)
    assert (failed.value.status_code, failed.value.code) == (500, "generation_failed")


# Its retries


def test_its_retry_waits_as_long_as_our_retry_after_says_and_then_succeeds(tmp_path: Path) -> None:
    attempts: list[float] = []
    with (
        ThreadPoolExecutor(3) as threads,
        busy(tmp_path, max_queued=1) as (server, generator),
        server.client() as client,
        httpx.Client(event_hooks={"request": [lambda _: attempts.append(time.monotonic())]}) as counting,
    ):
        running = threads.submit(post, server, {"prompt": "a star"})
        generator.wait_for_batch()
        queued = threads.submit(post, server, {"prompt": "a star"})
        wait_until_queued(client, 1)
        patient = sdk_of(server, max_retries=1, http_client=counting)
        retried = threads.submit(patient.images.generate, prompt="a star")
        wait_for_metric(client, 'atelier_rejections_total{queue="generate",reason="queue_full"}', 1)
        generator.open()
        assert len(files_of(retried.result())) == 1
        assert running.result().status_code == queued.result().status_code == 200
    # Left to itself it would have come back after half a second at most.
    assert len(attempts) == 2
    assert attempts[1] - attempts[0] >= 1.0
