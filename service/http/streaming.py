"""ImageStream: a generation request as server-sent events: previews, then each finished image."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.application.generate import Order, explain, in_base64, usage_of
from service.http.dependencies import Parts
from service.http.middleware.telemetry import RequestTrace
from service.http.schemas.images import CompletedEvent, PartialImageEvent
from service.http.sse import Event
from service.model.engine.types import ImageSpec, Preview, PreviewRequest
from service.model.schedule import Size


@dataclass(frozen=True, slots=True)
class ImageUpdate:
    """News of one image: a partial image, or None when its job has ended, well or not."""

    index: int
    partial: Preview | None


class ImageStream:
    """Submits the order at once, so that refusals are raised like those of any request.

    What fails afterwards fails in `events`. `close` gives up what is not finished; it must be called.
    """

    def __init__(self, parts: Parts, order: Order, num_previews: int, account: RequestTrace) -> None:
        self._parts = parts
        self._order = order
        self._account = account
        self._began = self._ended = account.clock()
        self._sights: asyncio.Queue[ImageUpdate] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        specs = [self._watched(index, spec, num_previews) for index, spec in enumerate(order.specs)]
        self._jobs = order.submit(parts, specs)
        for index, job in enumerate(self._jobs):
            job.future.add_done_callback(partial(self._see, ImageUpdate(index, None)))

    def close(self) -> None:
        for job in self._jobs:
            job.future.cancel()

    async def events(self) -> AsyncGenerator[Event]:
        """A completed event for each image, partial images of it before that. A ServiceError ends all."""
        num_left, shown = len(self._jobs), defaultdict[int, list[int]](list)
        while num_left:
            sight = await self._sights.get()
            if sight.partial is None:
                num_left -= 1
                yield await self._completed(sight.index, is_last=num_left == 0)
            # A batch that ran out of memory is drawn again in halves: the same steps come a second time.
            elif sight.partial.step not in (steps := shown[sight.index]):
                yield await self._partial(sight.index, len(steps), sight.partial)
                steps.append(sight.partial.step)
        self._parts.metrics.images.inc(len(self._jobs))

    def _watched(self, index: int, spec: ImageSpec, num_previews: int) -> ImageSpec:
        steps = self._parts.generator.preview_steps(spec.size, num_previews, spec.shortcuts)

        def show(seen: Preview) -> None:  # on the model thread
            self._loop.call_soon_threadsafe(self._see, ImageUpdate(index, seen))

        return replace(spec, previews=PreviewRequest(steps, show)) if steps else spec

    def _see(self, sight: ImageUpdate, _: object = None) -> None:
        if sight.partial is None:
            self._ended = self._account.clock()
        self._sights.put_nowait(sight)

    async def _partial(self, index: int, partial_index: int, seen: Preview) -> Event:
        height, width = seen.image.shape[:2]
        file = await self._file(seen.image)
        if partial_index == 0:
            self._parts.metrics.first_preview_seconds.observe(self._account.seconds)
        event = PartialImageEvent(
            **self._common(index, file),
            step=seen.step,
            num_steps=seen.num_steps,
            partial_image_index=partial_index,
            partial_size=str(Size(width, height)),
        )
        return Event(event.type, event)

    async def _completed(self, index: int, *, is_last: bool) -> Event:
        drawing = self._jobs[index].future.result()
        if is_last:
            explain(self._jobs, self._ended - self._began, self._account)
        with self._account.stage("encode"):
            file = await self._file(drawing.image)
        spec = self._order.specs[index]
        num_steps = self._parts.generator.num_steps(spec.size, spec.shortcuts)
        event = CompletedEvent(
            **self._common(index, file),
            step=num_steps,
            num_steps=num_steps,
            model=self._parts.generator.name,
            usage=usage_of([drawing]),
            warnings=list(drawing.warnings) or None,
        )
        return Event(event.type, event)

    async def _file(self, image: NDArray[np.uint8]) -> str:
        return in_base64(await self._order.encode(self._parts, image))

    def _common(self, index: int, file: str) -> dict[str, Any]:
        spec, styled = self._order.specs[index], self._order.styled[index]
        return {
            "b64_json": file,
            "created_at": int(time.time()),
            "size": str(spec.size),
            "quality": self._order.quality(self._parts).value,
            "output_format": self._order.output.value,
            "image_index": index,
            "seed": spec.seed,
            "style": styled.style,
            "styles": styled.styles,
            "strength": styled.strength,
            "alpha": styled.alpha,
        }
