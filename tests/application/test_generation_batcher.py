"""Where the time of a generation request went."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.application.generation_batcher import ImageJob, record_timings
from service.batching.job_queue import Job
from service.model.engine.types import Drawing, ImageSpec, Timings
from service.model.schedule import Size
from service.stage_timer import RequestTrace

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


async def test_a_stage_that_comes_twice_adds_up() -> None:
    seconds = iter([0.0, 1.0, 3.0, 10.0, 14.0])
    trace = RequestTrace(lambda: next(seconds))
    for _ in range(2):
        with trace.stage("encode"):
            pass
    assert trace.seconds == {"encode": 2.0 + 4.0}
