"""Order: what a request wants of the queue, and how its images leave as files."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.application.stylings import StyleAnswered
from service.batching.batcher import Job
from service.batching.priority import Priority
from service.http.dependencies import Parts
from service.http.middleware.telemetry import RequestTrace
from service.http.schemas.images import Usage, UsageDetails
from service.media.images import OutputFormat, encode_image
from service.model.engine.quality import Quality
from service.model.engine.types import Drawing, ImageSpec

# 64 x 64 pixels: to hand them to a thread and back takes longer than to encode them.
MAX_INLINE_BYTES = 3 * 64 * 64
ImageJob = Job[ImageSpec, Drawing]


@dataclass(frozen=True, slots=True)
class Order:
    """The images of one request, and the one form in which all of them are answered."""

    specs: tuple[ImageSpec, ...]
    styled: tuple[StyleAnswered, ...]  # one a spec
    output: OutputFormat
    compression: int | None
    deadline: float | None
    priority: Priority

    def submit(self, parts: Parts, specs: Sequence[ImageSpec]) -> list[ImageJob]:
        """One job a spec, all or none; refusals as from the batcher."""
        return parts.generation.submit(specs, deadline=self.deadline, priority=self.priority)

    def quality(self, parts: Parts) -> Quality:
        """What is taken for the request's images, of which all have the same."""
        return parts.generator.qualities.name_of(self.specs[0].shortcuts)

    async def encode(self, parts: Parts, image: NDArray[np.uint8]) -> bytes:
        """The image as a file; a large one is encoded away from the event loop."""
        if image.nbytes <= MAX_INLINE_BYTES:
            return self._encode(parts, image)
        return await parts.off_loop(parts.encoding, self._encode, parts, image)

    def _encode(self, parts: Parts, image: NDArray[np.uint8]) -> bytes:
        with parts.metrics.stage_duration_seconds.labels(stage="encode").time():
            return encode_image(image, self.output, compression=self.compression)


def in_base64(file: bytes) -> str:
    return b64encode(file).decode()


def explain(jobs: Sequence[ImageJob], waited_seconds: float, account: RequestTrace) -> None:
    """Where the time between submitting these finished jobs and the last one's end went.

    The stages are those of the batch that began last. All the rest was waiting: in the queue, for other
    batches of the same request, and for the event loop to notice the end.
    """
    last = max(jobs, key=lambda job: job.started_at or 0.0)
    timings = last.future.result().timings
    of_batch = {
        "text": timings.text_seconds,
        "transformer": timings.transformer_seconds,
        "decode": timings.decode_seconds,
    }
    account.stages.waited(waited_seconds, then=of_batch)
    account.step_seconds = timings.step_seconds
    account.fields |= {"num_images": len(jobs), "num_jobs_in_batch": last.num_jobs_in_batch}


def usage_of(drawings: Sequence[Drawing]) -> Usage:
    num_text = sum(drawing.num_text_tokens for drawing in drawings)
    num_image = sum(drawing.num_image_tokens for drawing in drawings)
    return Usage(
        input_tokens=num_text,
        input_tokens_details=UsageDetails(text_tokens=num_text),
        output_tokens=num_image,
        total_tokens=num_text + num_image,
    )
