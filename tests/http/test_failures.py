"""What goes wrong has a defined answer, harms nobody else, and is over once its cause is."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from redis.asyncio import Redis

from service.model.engine.generator import Generator
from service.model.engine.types import Path as ImagePath
from service.model.infinity.backbone import Cache, Infinity
from service.model.schedule import Schedule
from service.storage.embedded_valkey.server import EmbeddedValkey
from tests.support.busy_server import metric
from tests.support.full_disk import largest_file
from tests.support.gated_generator import FailingGenerator
from tests.support.generations import draw, error_of
from tests.support.server import ready_server
from tests.support.tiny import tiny_generator, tiny_infinity
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow

SPLITS = 'atelier_out_of_memory_splits_total{queue="generate"}'


# The store


async def test_without_its_store_only_cached_styles_work_until_it_returns(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    with ready_server(tmp_path, tiny_generator(), redis_url=valkey.url) as (_, client):
        cached = upload(client, picture(90)).json()["id"]
        before = draw(client, style=cached).json()["data"]
        await valkey.stop()
        cold = draw(client, style=cached, size="96x64")
        for refused in (upload(client, picture(91)), client.get("/v1/styles"), cold):
            assert error_of(refused, 503)["code"] == "store_unavailable"
            assert int(refused.headers["Retry-After"]) >= 1
        assert draw(client, style=cached).json()["data"] == before
        assert draw(client).status_code == 200
        assert client.get("/readyz").json()["store"] == "unavailable"
        await valkey.start()
        assert draw(client, style=cached, size="96x64").status_code == 200
        assert upload(client, picture(91)).status_code == 201
        assert [listed["id"] for listed in client.get("/v1/styles").json()["data"]][-1] == cached


async def test_a_store_that_does_not_answer_is_given_up_in_time(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    with ready_server(tmp_path, tiny_generator(), redis_url=f"{valkey.url}?socket_timeout=0.3") as (
        _,
        client,
    ):
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            assert error_of(upload(client, picture(92)), 503)["code"] == "store_unavailable"
            hurried = client.get("/v1/styles", headers={"X-Request-Timeout": "0.05"})
            assert error_of(hurried, 504)["code"] == "deadline_exceeded"
            assert draw(client).status_code == 200
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        assert upload(client, picture(92)).status_code == 201


async def test_a_full_store_refuses_uploads_with_a_remedy_and_images_are_still_drawn(
    tmp_path: Path, valkey: EmbeddedValkey, redis: Redis
) -> None:
    with ready_server(tmp_path, tiny_generator(), redis_url=valkey.url) as (_, client):
        style = upload(client, picture(93)).json()["id"]
        await redis.config_set("maxmemory", "1mb")
        error = error_of(upload(client, picture(94)), 503)
        assert error["code"] == "store_unavailable"
        assert "Delete styles" in error["message"]
        assert draw(client, style=style).status_code == 200
        await redis.config_set("maxmemory", "0")
        assert upload(client, picture(94)).status_code == 201


async def test_a_damaged_feature_is_rebuilt_from_its_picture(
    tmp_path: Path, valkey: EmbeddedValkey, redis: Redis
) -> None:
    with ready_server(tmp_path, tiny_generator(), redis_url=valkey.url) as (_, client):
        style = upload(client, picture(95)).json()["id"]
        before = draw(client, style=style).json()["data"]
    keys = await redis.keys("atelier:feature:*")
    assert keys
    for key in keys:
        await redis.set(key, b"damaged")
    with ready_server(tmp_path, tiny_generator(), redis_url=valkey.url) as (_, client):
        assert draw(client, style=style).json()["data"] == before
        assert metric(client, 'atelier_style_features_total{result="rebuilt"}') == 1


# The disk


def test_an_upload_that_the_disk_does_not_take_is_refused_and_the_next_one_is_read(tmp_path: Path) -> None:
    large = picture(96) + bytes(3 * 2**20)  # beyond what is kept in memory
    with ready_server(tmp_path, tiny_generator()) as (_, client):
        with largest_file(2**20):
            refused = upload(client, large)
        error = error_of(refused, 503)
        assert error["code"] == "store_unavailable"
        assert "disk is full" in error["message"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert upload(client, picture(96)).status_code == 201


# The model


class DyingGenerator(FailingGenerator):
    """Ends its thread on that prompt."""

    ERROR = SystemExit(1)


def test_a_model_thread_that_ends_turns_readiness_red_and_every_request_is_answered(tmp_path: Path) -> None:
    with ready_server(tmp_path, DyingGenerator(tiny_generator().backbone)) as (_, client):
        assert draw(client).status_code == 200
        failed = error_of(draw(client, prompt=FailingGenerator.FAILS_ON), 500)
        assert failed["code"] == "generation_failed"
        assert "restarted" in failed["message"]
        for refused in (client.get("/readyz"), draw(client)):
            error = error_of(refused, 503)
            assert (error["code"], "died" in error["message"]) == ("not_ready", True)
        assert metric(client, "atelier_ready") == 0
        assert client.get("/livez").status_code == 200


class SmallDevice(Infinity):
    """The tiny model on a device that holds so many paths and no more."""

    def __init__(self) -> None:
        of = tiny_infinity()
        super().__init__(of.config, of.transformer, of.tokenizer, of.text_encoder, fingerprint="0" * 16)
        self.max_paths = 100

    def begin(self, paths: Sequence[ImagePath], schedule: Schedule, num_steps: int) -> Cache:
        if len(paths) > self.max_paths:
            raise torch.OutOfMemoryError("out of memory")
        return super().begin(paths, schedule, num_steps)


def test_a_batch_that_does_not_fit_is_split_and_an_image_that_never_fits_fails(tmp_path: Path) -> None:
    model = SmallDevice()
    with ready_server(tmp_path, Generator(model)) as (_, client):
        roomy = draw(client, n=4).json()["data"]
        model.max_paths = 2
        assert draw(client, n=4).json()["data"] == roomy
        assert metric(client, SPLITS) == 1
        model.max_paths = 0
        error = error_of(draw(client), 500)
        assert (error["code"], "smaller size" in error["message"]) == ("generation_failed", True)
        model.max_paths = 1
        assert draw(client).json()["data"] == roomy[:1]


@pytest.mark.parametrize("part", ["transformer", "image tokenizer"])
def test_numbers_that_are_not_finite_are_an_error_and_never_an_image(tmp_path: Path, part: str) -> None:
    model = tiny_infinity()
    bias = model.transformer.head.bias if part == "transformer" else model.tokenizer.decoder.conv_out.bias
    assert bias is not None
    with ready_server(tmp_path, Generator(model)) as (_, client):
        sound = draw(client).json()["data"]
        good = float(bias[0])
        bias[0] = float("nan")
        assert error_of(draw(client), 500)["code"] == "generation_failed"
        bias[0] = good
        assert draw(client).json()["data"] == sound
