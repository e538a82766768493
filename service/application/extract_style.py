"""Styles: creates styles from pictures, text or a style code, and gives access to those of one tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.application.caller import Caller
from service.application.uploads import PictureReader, UploadedFile
from service.batching.batcher import Batcher
from service.batching.model_thread import ModelThread
from service.errors import InvalidRequest
from service.media.images import Picture, read_picture
from service.metrics import Metrics
from service.model.engine.generator import Generator
from service.model.schedule import Size
from service.model.style.feature import StyleFeature
from service.model.style.tokens import StyleTokens
from service.settings import Settings
from service.stage_timer import RequestTrace, StageTimer
from service.storage.client import StoreState
from service.storage.schema import Quota
from service.styles.record import Style, StyleText
from service.styles.store import StyleStore

# Styles that the model reads between two batches of images: reading one takes a fraction of a batch.
MAX_STYLES_IN_TURN = 8
# Kubernetes gives a probe one second by default.
PROBE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PictureSource:
    """Uploaded files, whose mean becomes the style; read where they are decoded."""

    files: tuple[UploadedFile, ...]


UploadedSource = PictureSource | StyleText | str  # a style code


@dataclass(frozen=True, slots=True)
class Styles:
    """The styles of one caller's tenant; styles that exist are read and changed through `store`.

    `warnings_of_text` says what of a style's text the model cannot use.
    """

    store: StyleStore
    model: str
    fingerprint: str  # of the model
    reader: PictureReader
    settings: Settings
    warnings_of_text: Callable[[str], Sequence[str]]
    caller: Caller = field(default_factory=Caller)

    def of(self, caller: Caller) -> Styles:
        """The same with the styles of the caller's tenant."""
        quota = caller.quota or Quota(self.settings.max_styles, self.settings.max_style_bytes)
        return replace(self, store=self.store.of(caller.tenant, quota), caller=caller)

    async def create(
        self,
        source: UploadedSource,
        trace: RequestTrace,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        prompt_suffix: str | None = None,
    ) -> tuple[Style, bool]:
        """The style and whether it is new. QueueFull when too many uploads wait; InvalidImage,
        PayloadTooLarge or UnsupportedMediaType for a file; InvalidRequest for a text that is too long or a
        code that is damaged or of another model; RateLimitExceeded for a text, which is drawn as an image is.
        """
        create = partial(
            self.store.create, name=name, metadata=metadata, prompt_suffix=prompt_suffix, stages=trace
        )
        if isinstance(source, PictureSource):
            with self.reader.slot():
                with trace.stage("picture"):
                    pictures = await self.reader.read(source.files, read_picture)
                return await create(pictures)
        bound = self.settings.max_prompt_chars
        if isinstance(source, StyleText):
            if len(source.text) > bound:
                raise InvalidRequest(
                    f"text has {len(source.text)} characters; it may have {bound}.", param="text"
                )
            await self.caller.take("images", 1)
            source = StyleText(source.text.strip(), source.seed)
        return await create(source)

    async def store_state(self) -> StoreState:
        """What the store does; unavailable when it does not answer soon enough for a readiness probe."""
        try:
            return await asyncio.wait_for(self.store.state(), PROBE_SECONDS)
        except TimeoutError:
            return "unavailable"


@dataclass(frozen=True, slots=True)
class ExtractionInput:
    """A picture [height, width, 3] or a text to read a style from, for images of one size."""

    source: NDArray[np.uint8] | StyleText
    size: Size


@dataclass(frozen=True, slots=True)
class Extracted:
    """A style feature, and the seconds of the model thread that it took, by stage."""

    feature: StyleFeature
    stage_seconds: Mapping[str, float]


class Extraction:
    """The StyleExtractor of the style store. Stored pictures are unpacked in the `decoding` pool."""

    def __init__(
        self, generator: Generator, batcher: Batcher[ExtractionInput, Extracted], decoding: Executor
    ) -> None:
        self._generator = generator
        self._batcher = batcher
        self._decoding = decoding
        self.name = generator.name
        self.fingerprint = generator.fingerprint
        self.style_size = generator.style_size
        self.schedule_name = generator.schedule_name
        self.restore = generator.restore_style
        self.agreement = generator.backbone.style_agreement

    def combine(self, features: Sequence[StyleFeature], size: Size) -> StyleFeature:
        tokens = self._generator.combine_tokens([feature.tokens for feature in features], size)
        return self._generator.decompose(tokens, size)

    def check_tokens(self, tokens: StyleTokens) -> None:
        self._generator.combine_tokens([tokens], self.style_size)

    async def extract(self, picture: Picture, size: Size, stages: StageTimer) -> StyleFeature:
        with stages.stage("picture"):
            pixels = await asyncio.get_running_loop().run_in_executor(self._decoding, picture.pixels)
        return await self._extracted(ExtractionInput(pixels, size), stages)

    async def extract_text(self, text: StyleText, stages: StageTimer) -> StyleFeature:
        return await self._extracted(ExtractionInput(text, self.style_size), stages)

    async def _extracted(self, job_input: ExtractionInput, stages: StageTimer) -> StyleFeature:
        began = stages.clock()
        extracted = await self._batcher.submit([job_input])[0].future
        stages.waited(stages.clock() - began, then=extracted.stage_seconds)
        return extracted.feature


def extraction_batcher(
    generator: Generator,
    executor: ModelThread,
    settings: Settings,
    metrics: Metrics,
    clock: Callable[[], float],
) -> Batcher[ExtractionInput, Extracted]:
    """The queue of styles to read: one after another, as together they are not faster, and a few in a turn.

    Between two turns the model draws a batch of images, which takes seconds on a CPU. With one style in each
    turn, a full queue of uploads would wait for as many batches.
    """

    def extract(job_input: ExtractionInput) -> Extracted:
        source, size, stages = job_input.source, job_input.size, StageTimer(clock)
        with stages.stage("extract"):
            if isinstance(source, StyleText):
                tokens = generator.tokens_of_text(source.text, source.seed)
            else:
                tokens = generator.read_tokens(source, size)
        with stages.stage("decompose"):
            feature = generator.decompose(tokens, size)
        for stage, seconds in stages.seconds.items():
            metrics.stage_duration_seconds.labels(stage=stage).observe(seconds)
        return Extracted(feature, stages.seconds)

    def run(inputs: Sequence[ExtractionInput], cancelled: Callable[[], bool]) -> list[Extracted]:
        return [extract(job_input) for job_input in inputs]

    return Batcher(
        run,
        name="extract",
        group=lambda job_input: job_input.size,
        max_jobs=lambda _: MAX_STYLES_IN_TURN,
        max_queued=settings.max_queued,
        executor=executor,
        metrics=metrics,
    )
