"""Images: draws what is requested, as finished files or as a stream of previews and files."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.application.caller import Caller
from service.application.edit_pictures import check_request_pictures, read_request_pictures
from service.application.generation_batcher import record_timings
from service.application.generation_request import (
    MAX_SEED,
    GenerationRequest,
    StyleMix,
    check_request,
    styles_of,
    with_suffixes,
)
from service.application.model_names import ModelNames
from service.application.output_size import OutputSize, output_size
from service.application.uploads import PictureReader
from service.batching.batcher import Batcher
from service.batching.job_queue import Job, Owner
from service.media.c2pa_signer import C2paSigner
from service.media.composite import Composite
from service.media.images import OutputFormat, encode_image, resize_image
from service.media.provenance import Provenance
from service.metrics import Metrics
from service.model.engine.generator import Generator
from service.model.engine.quality import Quality
from service.model.engine.types import (
    Area,
    Drawing,
    ImageSpec,
    Preview,
    PreviewRequest,
    Styling,
    WeightedStyle,
)
from service.model.schedule import Size
from service.settings import Settings
from service.stage_timer import RequestTrace
from service.styles.record import style_id_of
from service.styles.store import StyleStore
from service.styles.style_code import is_code

# 64 x 64 pixels: handing them to a thread and back takes longer than encoding them.
MAX_INLINE_BYTES = 3 * 64 * 64


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image of a request, with everything that was left open decided."""

    index: int  # in the request: seed by seed, style by style within
    spec: ImageSpec
    quality: Quality
    output_format: OutputFormat
    style: StyleMix | None  # resolved
    output: OutputSize
    xmp: bytes = b""  # what its files say of their origin
    composite: Composite | None = None  # of what is edited inside a mask


@dataclass(frozen=True, slots=True)
class StyledPrompt:
    """A prompt with what its style adds to it, and the style as it was found in the store."""

    prompt: str | None
    styling: Styling | None = None


@dataclass(frozen=True, slots=True)
class FinishedImage:
    planned: PlannedImage
    file: bytes
    drawing: Drawing

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was done other than asked."""
        return (*self.planned.output.warnings, *self.drawing.warnings)


@dataclass(frozen=True, slots=True)
class PreviewImage:
    planned: PlannedImage
    file: bytes
    index: int  # among the previews of its image
    preview: Preview


ImageUpdate = PreviewImage | FinishedImage


@dataclass(frozen=True, slots=True)
class Images:
    """Draws images on the model thread.

    Any method that takes a request raises InvalidRequest or ModelNotFound for what the model or the settings
    do not allow, RateLimitExceeded, QueueFull, NotReady, and whatever the style store raises.
    """

    generator: Generator
    names: ModelNames
    batcher: Batcher[ImageSpec, Drawing]
    store: StyleStore
    reader: PictureReader
    encoding: Executor
    settings: Settings
    metrics: Metrics
    signer: C2paSigner | None = None

    async def generate(
        self, request: GenerationRequest, caller: Caller, trace: RequestTrace
    ) -> list[FinishedImage]:
        """The images, in the order of `PlannedImage.index`. GenerationFailed or DeadlineExceeded for all of
        them when one fails or is late; cancelling the call cancels its jobs.
        """
        planned = await self._plan(request, caller, trace)
        began = trace.clock()
        specs = [image.spec for image in planned]
        jobs = self.batcher.submit(
            specs, deadline=request.deadline, priority=request.priority, owner=caller.owner
        )
        try:
            drawings = await asyncio.gather(*(job.future for job in jobs))
        finally:
            for job in jobs:
                job.future.cancel()
        record_timings(trace, jobs, trace.clock() - began)
        with trace.stage("encode"):
            encoded = [
                self.encode(request, image, drawing.image)
                for image, drawing in zip(planned, drawings, strict=True)
            ]
            files = await asyncio.gather(*encoded)
        self.metrics.images.inc(len(files))
        return list(map(FinishedImage, planned, files, drawings))

    async def stream(self, request: GenerationRequest, caller: Caller, trace: RequestTrace) -> ImageStream:
        """The same images as they are drawn. Refusals are raised here, failures of jobs by the stream."""
        return ImageStream(self, request, await self._plan(request, caller, trace), caller.owner, trace)

    async def encode(
        self, request: GenerationRequest, planned: PlannedImage, image: NDArray[np.uint8]
    ) -> bytes:
        """The image or preview [height, width, 3] as a file, of the size that was asked for if that is not
        drawn; a large one is encoded off the event loop.
        """
        target = planned.output.resized_to

        def encode() -> bytes:
            with self.metrics.stage_duration_seconds.labels(stage="encode").time():
                drawn = image if planned.composite is None else planned.composite.under(image)
                resized = drawn if target is None else resize_image(drawn, target.width, target.height)
                file = encode_image(
                    resized, request.output_format, compression=request.output_compression, xmp=planned.xmp
                )
                return file if self.signer is None else self.signer.sign(file, request.output_format)

        num_bytes = image.nbytes if target is None else 3 * target.width * target.height
        if num_bytes <= MAX_INLINE_BYTES and self.signer is None and planned.composite is None:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(self.encoding, encode)

    async def check(self, request: GenerationRequest, caller: Caller, trace: RequestTrace) -> None:
        """Whatever can be refused before it is drawn, for a request that is drawn later: it counts now."""
        output, styles = self._checked(request, caller)
        store = self.store.of(caller.tenant)
        for term in (term for style in styles if style is not None for term in style.terms):
            await store.require(term.id, param=term.param)
        await caller.take("images", request.num_images * len(styles))
        await check_request_pictures(request, styles, output.drawn, self.reader, trace)

    def _checked(
        self, request: GenerationRequest, caller: Caller
    ) -> tuple[OutputSize, list[StyleMix | None]]:
        """The size and the styles to draw in."""
        of_model = self.names.style_of(request.model)
        chosen = styles_of(request, of_model, caller.style)
        is_resizing = self.settings.size_policy == "nearest"
        output = output_size(request.size, self.generator, is_resizing=is_resizing)
        check_request(request, chosen, self.settings.max_prompt_chars)
        alpha = self.generator.alpha
        return output, [None if style is None else style.resolved(alpha) for style in chosen]

    async def _plan(
        self, request: GenerationRequest, caller: Caller, trace: RequestTrace
    ) -> list[PlannedImage]:
        output, chosen = self._checked(request, caller)
        styles: Sequence[StyleMix | None] = chosen
        await caller.take("images", request.num_images * len(styles))
        if self.settings.log_prompts:
            trace.fields["prompt"] = request.prompt
        pictures = await read_request_pictures(
            request, styles, output, self.generator, self.reader, self.store.of(caller.tenant), trace
        )
        styles, output, size = pictures.styles, pictures.output, pictures.output.drawn
        trace.is_stylised = any(styles)
        prompts = [
            await self._styled(request.prompt, style, areas, size, caller, trace)
            for style, areas in zip(styles, pictures.areas, strict=True)
        ]
        edits = [pictures.edit(style) for style in styles]
        composite = pictures.composite(self.generator.cell(size))
        first_seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        shortcuts = self.generator.qualities.shortcuts()[request.quality]
        quality = self.generator.qualities.name_of(shortcuts)
        planned: list[PlannedImage] = []
        # Images of one seed side by side: a batch that cannot hold all then holds those which share a
        # content path.
        for number in range(request.num_images):
            for style, styled, edit in zip(styles, prompts, edits, strict=True):
                spec = ImageSpec(
                    prompt=styled.prompt,
                    seed=(first_seed + number) % (MAX_SEED + 1),
                    size=size,
                    negative_prompt=request.negative_prompt,
                    guidance=request.guidance,
                    styling=styled.styling,
                    edit=edit,
                    shortcuts=shortcuts,
                )
                xmp = self._xmp(spec, style, caller)
                planned.append(
                    PlannedImage(
                        len(planned), spec, quality, request.output_format, style, output, xmp, composite
                    )
                )
        return planned

    def _xmp(self, spec: ImageSpec, style: StyleMix | None, caller: Caller) -> bytes:
        """A style code would let any reader of the file draw in the style: it is named by its ID. One of
        strength or weight 0 had no part in the image.
        """
        provenance = Provenance(
            model=self.generator.name,
            fingerprint=self.generator.fingerprint,
            seed=spec.seed,
            style_ids=tuple(
                style_id_of(code=term.id, tenant=caller.tenant) if is_code(term.id) else term.id
                for term in (style.terms if style and style.strength else ())
                if term.weight
            ),
            prompt=spec.prompt or "",
            negative_prompt=spec.negative_prompt,
        )
        return provenance.to_xmp(self.settings.metadata)

    async def _styled(
        self,
        prompt: str | None,
        style: StyleMix | None,
        areas: Sequence[Area | None],
        size: Size,
        caller: Caller,
        trace: RequestTrace,
    ) -> StyledPrompt:
        """The style is looked up now: one deleted later is drawn all the same."""
        if style is None:
            return StyledPrompt(prompt)
        store = self.store.of(caller.tenant)
        with trace.stage("style"), self.metrics.stage_duration_seconds.labels(stage="style").time():
            features = [await store.feature(term.id, size, param=term.param) for term in style.terms]
            suffixes = [await store.prompt_suffix(term.id) for term in style.terms]
        weighted = [
            WeightedStyle(feature, term.weight, area, term.box)
            for feature, term, area in zip(
                features, style.terms, areas or [None] * len(features), strict=True
            )
        ]
        styling = Styling(tuple(weighted), strength=style.strength, alpha=style.alpha)
        return StyledPrompt(None if prompt is None else with_suffixes(prompt, style, suffixes), styling)


class ImageStream:
    """The images of one request as they are drawn: previews of each, then its file.

    The jobs are submitted at once, so that QueueFull and NotReady are raised here. `close` cancels those that
    have not finished and must be called.
    """

    def __init__(
        self,
        images: Images,
        request: GenerationRequest,
        planned: Sequence[PlannedImage],
        owner: Owner,
        trace: RequestTrace,
    ) -> None:
        self._images = images
        self._request = request
        self._planned = planned
        self.output = planned[0].output  # of all images
        self.num_images = len(planned)
        self._trace = trace
        self._began = self._ended = trace.clock()
        self._has_preview = False
        # The index of an image with a preview of it, or with None once its job has ended.
        self._news: asyncio.Queue[tuple[int, Preview | None]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._jobs = images.batcher.submit(
            [self._with_previews(image) for image in planned],
            deadline=request.deadline,
            priority=request.priority,
            owner=owner,
        )
        for index, job in enumerate(self._jobs):
            job.future.add_done_callback(partial(self._on_end, index))

    def close(self) -> None:
        for job in self._jobs:
            job.future.cancel()

    async def updates(self) -> AsyncGenerator[ImageUpdate]:
        """Ends after the last file, or with the ServiceError of the first job that fails.

        Images whose batch began before that job's still come: they are drawn, and at most being decoded.
        """
        left, failed = set(range(len(self._jobs))), None
        shown = defaultdict[int, list[int]](list)
        while left:
            index, preview = await self._news.get()
            if index not in left:
                continue
            if preview is None:
                left.remove(index)
                job = self._jobs[index]
                if job.future.exception() is None:
                    yield await self._finished(index, is_last=not left and failed is None)
                elif failed is None:
                    failed = job
                    left = {other for other in left if _began_before(self._jobs[other], failed)}
            # A batch that ran out of memory is drawn again in halves: the same steps come a second time.
            elif preview.step not in (steps := shown[index]):
                yield await self._preview(index, len(steps), preview)
                steps.append(preview.step)
        if failed is not None:
            failed.future.result()

    def _with_previews(self, image: PlannedImage) -> ImageSpec:
        spec = image.spec
        steps = self._images.generator.preview_steps(spec.size, self._request.num_previews, spec.shortcuts)

        def show(preview: Preview) -> None:  # on the model thread
            self._loop.call_soon_threadsafe(self._news.put_nowait, (image.index, preview))

        return replace(spec, previews=PreviewRequest(steps, show)) if steps else spec

    def _on_end(self, index: int, _: asyncio.Future[Drawing]) -> None:
        self._ended = self._trace.clock()
        self._news.put_nowait((index, None))

    async def _preview(self, index: int, preview_index: int, preview: Preview) -> PreviewImage:
        planned = self._planned[index]
        file = await self._images.encode(self._request, planned, preview.image)
        if not self._has_preview:
            self._has_preview = True
            self._images.metrics.first_preview_seconds.observe(self._trace.elapsed_seconds)
        return PreviewImage(planned, file, preview_index, preview)

    async def _finished(self, index: int, *, is_last: bool) -> FinishedImage:
        drawing, planned = self._jobs[index].future.result(), self._planned[index]
        if is_last:
            record_timings(self._trace, self._jobs, self._ended - self._began)
        with self._trace.stage("encode"):
            file = await self._images.encode(self._request, planned, drawing.image)
        self._images.metrics.images.inc()
        return FinishedImage(planned, file, drawing)


def _began_before(job: Job[ImageSpec, Drawing], other: Job[ImageSpec, Drawing]) -> bool:
    """Whether a job was in an earlier batch than the other, which may have failed before it was in any."""
    if job.started_at is None:
        return False
    return other.started_at is None or job.started_at < other.started_at
