"""The queue of images, whose batches the model thread draws, and where their time went."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter

from service.batching.batcher import Batcher
from service.batching.job_queue import Job
from service.batching.model_thread import ModelThread, PendingOutputs
from service.metrics import Metrics
from service.model.engine.generator import Generator, PendingBatch
from service.model.engine.types import BatchKey, Drawing, ImageSpec, Timings
from service.settings import Settings
from service.stage_timer import RequestTrace

# Images in the background. Their jobs wait elsewhere: all that run at once have room here.
MAX_BACKGROUND_QUEUED = 1000
ImageJob = Job[ImageSpec, Drawing]


def record_timings(trace: RequestTrace, jobs: Sequence[ImageJob], waited_seconds: float) -> None:
    """Records where the time between submitting these finished jobs and the end of the last one went.

    The stages are those of the batch that began last. The rest was waiting: in the queue, for other batches
    of the same request, and for the event loop to notice the end.
    """
    last = max(jobs, key=attrgetter("started_at"))
    timings = last.future.result().timings
    trace.waited(waited_seconds, then=_stage_seconds(timings))
    trace.step_seconds, trace.gap_seconds = timings.step_seconds, timings.gap_seconds
    trace.fields |= {"num_images": len(jobs), "num_jobs_in_batch": last.num_jobs_in_batch}


def generation_batcher(
    generator: Generator,
    executor: ModelThread,
    settings: Settings,
    metrics: Metrics,
    *,
    is_background: bool = False,
) -> Batcher[ImageSpec, Drawing]:
    """The queue of images, whose batches `generator` draws; its durations are observed once a batch. The one
    in the background has work that yields to all other work.
    """

    def draw(
        specs: Sequence[ImageSpec], cancelled: Callable[[], bool]
    ) -> list[Drawing] | PendingOutputs[Drawing]:
        def cancelled_after_step() -> bool:
            # Else a GPU would have all further steps before it, when one that others wait for arrives.
            generator.synchronize()
            return cancelled()

        paused_seconds = executor.paused_seconds
        drawn = generator.draw(specs, cancelled_after_step if is_background else cancelled)
        paused_seconds = executor.paused_seconds - paused_seconds
        drawings = partial(_observed, drawn, paused_seconds, metrics)
        # To decode on another thread costs a request a little, and gains nothing while there is no other.
        is_alone = drawn.decoded is None and len(specs) == 1 and not batcher.num_queued
        return drawings() if drawn.is_ready or is_alone else PendingOutputs(drawings)

    def max_fitting(key: Hashable) -> int:
        assert isinstance(key, BatchKey)
        return generator.max_images(key.size)

    def max_in_background(key: Hashable) -> int:
        return max_background_images(max_fitting(key), is_cpu=generator.backbone.device.type == "cpu")

    batcher = Batcher(
        draw,
        name="background" if is_background else "generate",
        group=attrgetter("batch_key"),
        max_jobs=max_in_background if is_background else max_fitting,
        max_queued=MAX_BACKGROUND_QUEUED if is_background else settings.max_queued,
        executor=executor,
        metrics=metrics,
        yields=is_background,
        max_fitting=max_fitting,
    )
    return batcher


def max_background_images(max_images: int, *, is_cpu: bool) -> int:
    """Of a batch in the background. On a CPU a batch saves little, and each image makes its steps, and so the
    wait of a request that arrives during one, longer. On a GPU the rest of the memory is for those requests.
    """
    return 1 if is_cpu else max(1, max_images // 4)


def _observed(drawn: PendingBatch, paused_seconds: float, metrics: Metrics) -> list[Drawing]:
    drawings = drawn.drawings()
    timings = drawings[0].timings
    if paused_seconds:
        seconds = max(0.0, timings.transformer_seconds - paused_seconds)
        timings = replace(timings, transformer_seconds=seconds)
        drawings = [replace(drawing, timings=timings) for drawing in drawings]
    for stage, seconds in _stage_seconds(timings).items():
        metrics.stage_duration_seconds.labels(stage=stage).observe(seconds)
    for step, seconds in enumerate(timings.step_seconds, start=1):
        metrics.step_duration_seconds.labels(step=str(step)).observe(seconds)
    metrics.batch_rows.observe(timings.num_rows)
    metrics.content_paths_shared.inc(timings.num_content_paths_shared)
    return drawings


def _stage_seconds(timings: Timings) -> dict[str, float]:
    tokenize = {"tokenize": timings.tokenize_seconds} if timings.num_edits else {}
    return {
        "text": timings.text_seconds,
        **tokenize,
        "transformer": timings.transformer_seconds,
        "decode": timings.decode_seconds,
    }
