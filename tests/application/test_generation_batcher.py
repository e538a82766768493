"""Where the time of a generation request went."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.application.generation_batcher import ImageJob, generation_batcher, record_timings
from service.batching.job_queue import Job
from service.batching.model_thread import ModelThread
from service.metrics import Metrics
from service.model.device.transfer import DecodedImages
from service.model.engine.generator import Generator
from service.model.engine.quality import Shortcuts
from service.model.engine.types import Drawing, ImageSpec, Path, Timings
from service.model.infinity.backbone import Cache, Infinity
from service.model.schedule import Schedule, Size
from service.settings import Settings
from service.stage_timer import RequestTrace
from tests.support.gated_generator import PATIENCE_SECONDS
from tests.support.tiny import tiny_infinity

SIZE = Size(64, 64)


def finished(transformer_seconds: float, started_at: float) -> ImageJob:
    timings = Timings(
        text_seconds=0.25,
        tokenize_seconds=0.0,
        num_edits=0,
        transformer_seconds=transformer_seconds,
        decode_seconds=0.5,
        step_seconds=(0.5, transformer_seconds - 0.5),
        gap_seconds=(),
        num_rows=2,
        num_jobs=1,
        num_content_paths_shared=0,
    )
    drawing = Drawing(np.zeros((64, 64, 3), np.uint8), timings, num_text_tokens=3, num_image_tokens=130)
    future: asyncio.Future[Drawing] = asyncio.get_running_loop().create_future()
    future.set_result(drawing)
    return Job(
        ImageSpec("a star", 1, SIZE), SIZE, None, 0.0, future, started_at=started_at, num_jobs_in_batch=4
    )


async def test_all_that_the_last_batch_does_not_explain_was_waiting() -> None:
    trace = RequestTrace()
    record_timings(trace, [finished(4.0, started_at=7.0), finished(2.0, started_at=3.0)], 10.0)
    assert trace.seconds == {"queue": 5.25, "text": 0.25, "transformer": 4.0, "decode": 0.5}
    assert sum(trace.seconds.values()) == pytest.approx(10.0)
    assert trace.step_seconds == (0.5, 3.5)
    assert trace.fields == {"num_images": 2, "num_jobs_in_batch": 4}


class Meeting(Infinity):
    """The tiny model; whoever decodes waits until as many batches have begun as there will be."""

    num_batches: int
    all_began: threading.Event
    num_begun = 0

    def begin(self, paths: Sequence[Path], schedule: Schedule, num_steps: int) -> Cache:
        self.num_begun += 1
        if self.num_begun == self.num_batches:
            self.all_began.set()
        return super().begin(paths, schedule, num_steps)

    def decode(self, features: torch.Tensor) -> DecodedImages:
        assert self.all_began.wait(PATIENCE_SECONDS), "the next batch waits for this one's images"
        return super().decode(features)


async def test_images_are_decoded_while_the_next_batch_is_drawn_where_there_are_cores() -> None:
    model = Meeting.sharing_weights(tiny_infinity())
    model.num_batches, model.all_began = 2, threading.Event()
    generator = Generator(model)
    model.decodes_beside = True
    thread = ModelThread()
    batcher = generation_batcher(generator, thread, Settings(), Metrics())
    await batcher.start()
    exact = ImageSpec("a red star", 1, generator.default_size)
    jobs = batcher.submit([exact, replace(exact, shortcuts=Shortcuts(guidance_until=3))])  # two batches
    drawings = await asyncio.gather(*(job.future for job in jobs))
    await batcher.stop()
    thread.shutdown()
    alone = Generator(tiny_infinity())
    for ours, job in zip(drawings, jobs, strict=True):
        assert np.array_equal(ours.image, alone.generate([job.input])[0].image)
        assert ours.timings.decode_seconds > 0


async def test_a_stage_that_comes_twice_adds_up() -> None:
    seconds = iter([0.0, 1.0, 3.0, 10.0, 14.0])
    trace = RequestTrace(lambda: next(seconds))
    for _ in range(2):
        with trace.stage("encode"):
            pass
    assert trace.seconds == {"encode": 2.0 + 4.0}
