"""Stages add up to the time that the work took, for requests that waited for all or for a part of it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from redis.asyncio import Redis

from service.app import create_app
from service.lifecycle import NUM_DECODING_THREADS
from service.media.images import Picture
from service.metrics import Metrics
from service.model.engine.generator import Generator
from service.model.schedule import Size
from service.model.style.feature import StyleFeature
from service.model.style.tokens import StyleTokens
from service.settings import Settings
from service.stage_timer import RequestTrace, Span, StageTimer
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.styles.record import style_id_of
from service.styles.store import StyleStore
from tests.support.batcher import Clock
from tests.support.busy_server import metric
from tests.support.generations import stages_of
from tests.support.server import serving
from tests.support.styles import Extractor, picture_of
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload, upload_several


def test_a_stage_that_comes_twice_is_one_sum_and_its_first_place_stays() -> None:
    clock = Clock()
    stages = StageTimer(clock)
    for name, seconds in (("upload", 2.0), ("store", 1.0), ("upload", 3.0)):
        with stages.stage(name):
            clock.now += seconds
    assert stages.seconds == {"upload": 5.0, "store": 1.0}


def test_what_no_stage_has_is_named_by_where_it_is() -> None:
    clock = Clock()
    trace = RequestTrace(clock)
    assert trace.http_seconds(clock.now + 3) == {"receive": 3.0, "handle": 0.0, "respond": 0.0}
    clock.now += 1
    for seconds in (2.0, 4.0):
        with trace.stage("store"):
            clock.now += seconds
        clock.now += 8
    trace.spans.append(Span("picture", trace.began + 2, trace.began + 4))  # beside the first stage
    assert trace.http_seconds(clock.now) == {"receive": 1.0, "handle": 7.0, "respond": 8.0}


def test_a_stage_counts_when_what_is_inside_fails() -> None:
    clock = Clock()
    stages = StageTimer(clock)

    def fail() -> None:
        clock.now += 2.0
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), stages.stage("upload"):
        fail()
    assert stages.seconds == {"upload": 2.0}


def test_what_the_model_does_not_explain_of_a_wait_is_the_queue() -> None:
    clock = Clock()
    stages = StageTimer(clock)
    stages.waited(10.0, then={"extract": 6.0, "decompose": 1.0})
    assert stages.seconds == {"queue": 3.0, "extract": 6.0, "decompose": 1.0}
    assert stages.spans[-1].ended == clock.now


def test_a_model_that_says_more_than_was_waited_leaves_no_queue() -> None:
    stages = StageTimer(Clock())
    stages.waited(5.0, then={"extract": 6.0})
    assert stages.seconds == {"queue": 0.0, "extract": 6.0}


seconds = st.floats(0.001, 100)


@given(st.lists(st.tuples(st.sampled_from("abc"), seconds), min_size=1), st.floats(0, 1))
def test_who_comes_late_takes_over_exactly_what_he_waited(
    work: list[tuple[str, float]], share: float
) -> None:
    clock = Clock(now=0.0)
    others, own = StageTimer(clock), StageTimer(clock)
    for name, its_seconds in work:
        with others.stage(name):
            clock.now += its_seconds
    since = share * clock.now
    own.take(others, since=since)
    assert sum(own.seconds.values()) == pytest.approx(clock.now - since, abs=1e-6)


class TimedExtractor(Extractor):
    """All that it waits at its gate is the stage "extract"."""

    async def extract(self, picture: Picture, size: Size, stages: StageTimer) -> StyleFeature:
        with stages.stage("extract"):
            return await super().extract(picture, size, stages)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_store_tells_its_own_time_and_the_models(valkey: EmbeddedValkey, redis: Redis) -> None:
    clock, reader = Clock(), TimedExtractor()
    stages, store = StageTimer(clock), StyleStore(redis, extractor=reader, metrics=Metrics())
    assert await store.state() == "ready"
    reader.gate.clear()
    with paused(valkey):
        creating = asyncio.create_task(store.create([picture_of(1)], name=None, stages=stages))
        await turns()
        clock.now += 2.0
    await reader.started.wait()
    with paused(valkey):
        clock.now += 3.0
        reader.gate.set()
        await turns()
        clock.now += 4.0
    await creating
    assert stages.seconds == {"store": 6.0, "extract": 3.0, "decompose": 0.0}


async def test_who_sends_a_style_that_is_being_read_is_told_what_he_waited(redis: Redis) -> None:
    clock, reader = Clock(), TimedExtractor()
    early, late = StageTimer(clock), StageTimer(clock)
    store = StyleStore(redis, extractor=reader, metrics=Metrics())
    reader.gate.clear()
    first = asyncio.create_task(store.create([picture_of(1)], name=None, stages=early))
    await reader.started.wait()
    clock.now += 2.0
    second = asyncio.create_task(store.create([picture_of(1)], name=None, stages=late))
    style_id = style_id_of([picture_of(1).digest])
    while store.extractions.num_waiting(style_id) < 2:
        await turns()
    clock.now += 3.0
    reader.gate.set()
    assert (await first)[1] != (await second)[1]
    assert len(reader.seen) == 1
    assert (early.seconds["extract"], late.seconds["extract"]) == (5.0, 3.0)


class TickingGenerator(Generator):
    """Reads a picture in three seconds of the clock and decomposes it in one."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(tiny_generator().backbone)
        self.clock = clock

    def read_tokens(self, image: NDArray[np.uint8], size: Size, key_step: int | None = None) -> StyleTokens:
        self.clock.now += 3.0
        return super().read_tokens(image, size, key_step)

    def decompose(self, tokens: StyleTokens, size: Size, key_step: int | None = None) -> StyleFeature:
        self.clock.now += 1.0
        return super().decompose(tokens, size, key_step)


async def test_the_stages_of_an_upload_explain_all_of_its_time(tmp_path: Path) -> None:
    clock, go_on = Clock(), threading.Event()
    app = create_app(Settings(data_dir=tmp_path), TickingGenerator(clock), clock=clock)
    form = httpx.Request("POST", "http://x", files={"image": ("style.png", picture(22))})
    content, headers = form.read(), {"Content-Type": form.headers["Content-Type"]}

    async def slowly() -> AsyncIterator[bytes]:
        yield content[:100]
        clock.now += 5.0
        yield content[100:]

    async with app.router.lifespan_context(app), in_process(app) as client:
        await app.state.service.settled.wait()
        styles = app.state.readiness.require().styles
        threads_busy = [styles.reader.decoding.submit(go_on.wait) for _ in range(NUM_DECODING_THREADS)]
        uploading = asyncio.create_task(client.post("/v1/styles", content=slowly(), headers=headers))
        while not styles.reader.uploads.num_taken:
            await turns()
        clock.now += 7.0
        go_on.set()
        created = await uploading
        assert all(thread.result() for thread in threads_busy)
    assert created.status_code == 201
    stages, _, total = stages_of(created)
    assert stages == {
        "upload": 5000.0,
        "picture": 7000.0,
        "store": 0.0,
        "queue": 0.0,
        "extract": 3000.0,
        "decompose": 1000.0,
    }
    assert sum(stages.values()) == total


def test_every_way_to_make_a_style_names_its_stages(client: httpx.Client) -> None:
    pictures = {"upload", "picture", "store", "queue", "extract", "decompose"}
    created = upload(client, picture(30))
    assert set(stages_of(created)[0]) == pictures
    assert set(stages_of(upload_several(client, [picture(31), picture(32)]))[0]) == pictures
    assert set(stages_of(upload(client, picture(30)))[0]) == {"upload", "picture", "store", "style"}
    words = client.post("/v1/styles", json={"text": "neon"})
    assert set(stages_of(words)[0]) == pictures - {"picture"}
    code = client.post("/v1/styles", json={"code": created.json()["code"]})
    assert set(stages_of(code)[0]) == {"upload", "store", "decompose"}


def test_each_stage_of_a_style_is_counted_once_a_request_and_those_of_the_model_once_a_picture(
    tmp_path: Path,
) -> None:
    with serving(Settings(data_dir=tmp_path), tiny_generator()) as server, server.client() as client:
        server.wait_until_settled()
        assert upload_several(client, [picture(33), picture(34)]).status_code == 201
        counts = {
            stage: metric(client, f'atelier_stage_duration_seconds_count{{stage="{stage}"}}')
            for stage in ("upload", "picture", "store", "extract", "decompose")
        }
    assert counts == {"upload": 1, "picture": 1, "store": 1, "extract": 2, "decompose": 2}


@contextmanager
def paused(valkey: EmbeddedValkey) -> Iterator[None]:
    """It answers nothing meanwhile."""
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


@asynccontextmanager
async def in_process(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client on the test's own event loop, which can tell when what has happened."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
