"""Previews: partial images, decoded between the steps of a batch and shown once they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from service.model.backbone import AnyBackbone, BatchCache
from service.model.device.timer import DeviceTimer
from service.model.device.transfer import DecodedImages, index_tensor
from service.model.engine.plan import Plan
from service.model.engine.types import ImageSpec, Preview, PreviewRequest


@dataclass(frozen=True, slots=True)
class _PendingPreviews:
    """Images of one step on their way to the host."""

    decoded: DecodedImages
    step: int
    indices: list[int]  # of each image, its index among the features
    requests: list[tuple[int, PreviewRequest]]  # by the same index


class PreviewEmitter:
    """Of one batch. On a GPU an image is waited for only once the next step has been launched."""

    def __init__(
        self, backbone: AnyBackbone, cache: BatchCache, plan: Plan, specs: Sequence[ImageSpec]
    ) -> None:
        self._backbone = backbone
        self._cache = cache
        self._plan = plan
        self._requests = [
            (path, spec.previews)
            for path, spec in zip(plan.path_of_spec, specs, strict=True)
            if spec.previews is not None
        ]
        self._pending: _PendingPreviews | None = None
        self._timer = DeviceTimer(backbone.device)

    def emit(self, features: Tensor, step: int) -> None:
        """Decode the features [paths, channels, H, W] after a step, for those who asked to see it."""
        self.show()
        requests = [
            (self._cache.feature_index(path), request)
            for path, request in self._requests
            if step in request.steps
        ]
        if not requests:
            return
        indices = sorted({index for index, _ in requests})
        with self._timer.measure():
            some = features[index_tensor(indices, features.device)]
            decoded = self._backbone.decode_preview(some, self._plan.schedule, step)
        self._pending = _PendingPreviews(decoded, step, indices, requests)
        if decoded.is_ready:
            self.show()

    def show(self) -> None:
        """Wait for the images under way, if there are any, and show them."""
        if (pending := self._pending) is None:
            return
        self._pending = None
        images = dict(zip(pending.indices, pending.decoded.images(), strict=True))
        for index, request in pending.requests:
            request.show(Preview(images[index], pending.step, self._plan.num_steps))

    @property
    def decode_seconds(self) -> float:
        """Of all previews so far."""
        return sum(self._timer.seconds())


def preview_steps(num_previews: int, *, key_step: int, num_steps: int) -> tuple[int, ...]:
    """The steps after which to show so many previews: spread from the key step to the last step but one.

    Before the key step there is no style to see, and after the last step there is the image itself. A
    schedule too short for that gives earlier steps as well, and at worst fewer.
    """
    first = max(1, min(key_step, num_steps - num_previews))
    candidates = range(first, num_steps)
    num_shown = min(num_previews, len(candidates))
    return tuple(candidates[(2 * i + 1) * len(candidates) // (2 * num_shown)] for i in range(num_shown))
