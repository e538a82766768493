"""Streams: partial images, the final image, comments, errors after the first byte, clients that leave."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from torch import Tensor

from service.model.engine.generator import Generator, PendingBatch, never
from service.model.engine.types import Drawing, ImageSpec
from service.model.infinity.backbone import Cache, Infinity
from service.settings import Settings
from tests.support.busy_server import busy, hanging, metric, post, wait_for_metric, wait_until_queued
from tests.support.gated_generator import FailingGenerator, SteppingGenerator
from tests.support.generations import COMPLETED, GENERATIONS, PARTIAL, events_of, file_of, streamed
from tests.support.server import serving
from tests.support.tiny import tiny_generator, tiny_infinity
from tests.support.uploads import is_image, picture, upload

pytestmark = pytest.mark.slow


def image_of(client: httpx.Client, **fields: object) -> bytes:
    answer = client.post(GENERATIONS, json={"prompt": "a star"} | fields).json()
    return base64.b64decode(answer["data"][0]["b64_json"])


@pytest.mark.parametrize("num_previews", [0, 1, 2, 3])
def test_partial_images_come_in_order_and_grow_and_the_last_event_is_the_image(
    client: httpx.Client, num_previews: int
) -> None:
    style = upload(client, picture(70)).json()["id"]
    *partials, completed = events_of(client, seed=4, style=style, partial_images=num_previews)
    assert [event["type"] for event in partials] == [PARTIAL] * num_previews
    assert [event["partial_image_index"] for event in partials] == list(range(num_previews))
    assert completed["type"] == COMPLETED
    assert file_of(completed) == image_of(client, seed=4, style=style)
    steps = [event["step"] for event in (*partials, completed)]
    assert steps == sorted(set(steps))
    assert steps[-1] == completed["num_steps"] == 6
    stages = dict(completed["timings"])
    total = stages.pop("total")
    assert {"queue", "text", "style", "transformer", "decode", "encode"} == set(stages)
    assert 0 < sum(stages.values()) <= total + 0.1  # rounded
    assert not [event for event in partials if "timings" in event]
    for event in partials:
        size = tuple(map(int, event["partial_size"].split("x")))
        assert max(size) < 64
        assert is_image(file_of(event), "PNG", size)  # type: ignore[arg-type]


def test_both_events_have_the_fields_of_openai_and_ours(client: httpx.Client) -> None:
    partial, completed = events_of(client, seed=4, partial_images=1, output_format="webp")
    for event in (partial, completed):
        assert (event["size"], event["quality"], event["background"]) == ("64x64", "high", "opaque")
        assert (event["output_format"], event["seed"], event["image_index"]) == ("webp", 4, 0)
        assert event["created_at"] > 0
        assert event["num_steps"] == 6
    usage = completed["usage"]
    assert usage["output_tokens"] == 130
    assert usage["total_tokens"] == usage["input_tokens"] + 130
    assert usage["input_tokens_details"]["text_tokens"] == usage["input_tokens"] > 0
    assert "usage" not in partial
    answer = client.post(GENERATIONS, json={"prompt": "a star"}).json()
    assert answer["usage"] == usage
    assert (answer["quality"], answer["background"]) == ("high", "opaque")


def test_of_several_images_each_has_its_own_events(client: httpx.Client) -> None:
    events = events_of(client, seed=4, n=2, partial_images=1)
    for index in (0, 1):
        partial, completed = [event for event in events if event["image_index"] == index]
        assert (partial["type"], completed["type"]) == (PARTIAL, COMPLETED)
        assert partial["seed"] == completed["seed"] == 4 + index
        assert file_of(completed) == image_of(client, seed=4 + index)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"size": "9999x9999"}, 400, "size"),
        ({"style": "sty_nobody"}, 404, "style"),
        ({"partial_images": 4}, 400, "partial_images"),
    ],
)
def test_what_is_refused_before_the_first_byte_is_refused_like_any_request(
    client: httpx.Client, fields: dict[str, object], status: int, param: str
) -> None:
    with streamed(client, **fields) as response:
        response.read()
    assert response.status_code == status
    assert response.json()["error"]["param"] == param


def test_a_stream_cannot_be_a_raw_image(client: httpx.Client) -> None:
    body = {"prompt": "a star", "stream": True}
    refused = client.post(GENERATIONS, json=body, headers={"Accept": "image/png"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "stream"
    both = client.post(GENERATIONS, json=body, headers={"Accept": "image/png, text/event-stream, */*;q=0.1"})
    assert both.headers["Content-Type"].startswith("text/event-stream")


def test_a_full_queue_refuses_a_stream_with_429(tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor(2) as threads,
        busy(tmp_path, max_queued=1) as (server, generator),
        server.client() as client,
    ):
        running = threads.submit(post, server, {"prompt": "a star"})
        generator.wait_for_batch()
        queued = threads.submit(post, server, {"prompt": "a star"})
        wait_until_queued(client, 1)
        with streamed(client) as refused:
            refused.read()
        generator.open()
        assert running.result().status_code == queued.result().status_code == 200
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1


def test_a_failure_after_the_first_byte_is_an_error_event_and_the_last_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service")
    with serving(Settings(data_dir=tmp_path), FailingGenerator(tiny_generator().backbone)) as server:
        server.wait_until_settled()
        with server.client() as client:
            (event,) = events_of(client, prompt=FailingGenerator.FAILS_ON, n=2)
            assert list(event) == ["error"]
            assert event["error"]["code"] == "generation_failed"
            assert "secret reason" not in event["error"]["message"]
            assert len(events_of(client)) == 1
    failed, _ = [record for record in caplog.records if f"path='{GENERATIONS}'" in record.getMessage()]
    assert "failure='generation_failed'" in failed.getMessage()


class FullAtStepFive(Infinity):
    """The tiny model, whose memory holds one path at the fifth step and any number before."""

    def __init__(self) -> None:
        of = tiny_infinity()
        super().__init__(of.config, of.transformer, of.tokenizer, of.text_encoder, fingerprint="0" * 16)
        self.is_full = False  # the warm-up draws two paths at once

    def predict(self, cache: Cache, features: Tensor, step: int) -> Tensor:
        if step == 5 and len(features) > 1 and self.is_full:
            raise torch.OutOfMemoryError("out of memory")
        return super().predict(cache, features, step)


def test_a_batch_that_is_drawn_again_in_halves_shows_no_partial_image_twice(tmp_path: Path) -> None:
    model = FullAtStepFive()
    with serving(Settings(data_dir=tmp_path), Generator(model)) as server:
        server.wait_until_settled()
        model.is_full = True
        with server.client() as client:
            events = events_of(client, n=2, seed=4, partial_images=3)
    for index in (0, 1):
        mine = [event for event in events if event["image_index"] == index]
        assert [event["step"] for event in mine] == [3, 4, 5, 6]
        assert [event["partial_image_index"] for event in mine[:-1]] == [0, 1, 2]


def test_a_deadline_ends_a_stream_with_an_error_event(tmp_path: Path) -> None:
    with busy(tmp_path, max_queued=4, request_timeout_seconds=0.2) as (server, _):
        with server.client() as client:
            (event,) = events_of(client)
        assert event["error"]["code"] == "deadline_exceeded"


def test_comments_keep_a_quiet_connection_open(tmp_path: Path) -> None:
    with (
        busy(tmp_path, max_queued=4, ping_seconds=0.01) as (server, generator),
        server.client() as client,
        streamed(client) as response,
    ):
        lines = response.iter_lines()
        for _ in range(3):
            assert next(lines) == ": ping"
            assert next(lines) == ""
        generator.open()
        named = [line for line in lines if line.startswith("event: ")]
    assert named == [f"event: {COMPLETED}"]


def test_a_client_that_leaves_its_stream_frees_the_queue(tmp_path: Path) -> None:
    with busy(tmp_path, max_queued=2) as (server, generator), server.client() as client:
        running = hanging(server, {"prompt": "a star", "stream": True})
        generator.wait_for_batch()
        queued = hanging(server, {"prompt": "a mug", "n": 2, "stream": True})
        wait_until_queued(client, 2)
        queued.close()
        wait_until_queued(client, 0)
        running.close()
        wait_for_metric(client, 'atelier_cancellations_total{queue="generate",when="running"}', 1)
        generator.open()
        assert post(server, {"prompt": "a cat"}).status_code == 200
        assert "a mug" not in [spec.prompt for batch in generator.batches for spec in batch]


def test_the_time_to_the_first_partial_image_is_measured_once_a_request(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path), tiny_generator()) as server, server.client() as client:
        server.wait_until_settled()
        events_of(client, partial_images=3, n=2)
        events_of(client)
        assert metric(client, "atelier_first_preview_seconds_count") == 1
        assert metric(client, "atelier_images_total") == 3


def test_an_image_that_is_still_decoded_when_the_next_one_fails_comes_and_is_counted(tmp_path: Path) -> None:
    has_failed = threading.Event()

    class SeedFiveFails(FailingGenerator):
        max_in_batch = 1

        def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
            if specs[0].seed == 5:
                raise self.ERROR
            if specs[0].seed == 6:
                has_failed.set()
            drawn = super().draw(specs, cancelled)
            if specs[0].seed != 4:
                return drawn

            def decoded_later() -> list[Drawing]:
                assert has_failed.wait(timeout=30)
                return drawn.drawings()

            return replace(drawn, drawings=decoded_later)

    generator = SeedFiveFails(tiny_generator().backbone)
    generator.backbone.decodes_beside = True
    with serving(Settings(data_dir=tmp_path), generator) as server, server.client() as client:
        server.wait_until_settled()
        finished, failed = events_of(client, n=3, seed=4)
        assert finished["type"] == COMPLETED
        assert failed["error"]["code"] == "generation_failed"
        assert metric(client, "atelier_images_total") == 1


def test_a_partial_image_arrives_while_the_model_is_still_at_work(tmp_path: Path) -> None:
    generator = SteppingGenerator(tiny_generator())
    generator.let_go(12)  # the warm-up of both sizes
    with serving(Settings(data_dir=tmp_path), generator) as server, server.client() as client:
        server.wait_until_settled()
        with streamed(client, partial_images=1) as response:
            lines = response.iter_lines()
            generator.let_go(3)
            assert next(lines) == f"event: {PARTIAL}"
            assert json.loads(next(lines).removeprefix("data: "))["step"] == 4
            generator.let_go(3)
            assert f"event: {COMPLETED}" in lines
