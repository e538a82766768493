"""Preview images while a batch is drawn: decoded between its steps, handed out once they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from service.model.backbone import Backbone
from service.model.device.timer import DeviceTimer
from service.model.device.transfer import DecodedImages, index_tensor
from service.model.engine.plan import Plan
from service.model.engine.types import Preview, PreviewRequest
from service.model.schedule import Schedule
from service.model.style.resize import resize


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """Images on their way to who watches."""

    decoded: DecodedImages
    step: int
    paths: list[int]  # that were decoded, by their places
    watched: list[tuple[int, PreviewRequest]]


class PreviewEmitter:
    """Of one batch. On a GPU an image is waited for once the next step is launched: there is work then."""

    def __init__(self, backbone: Backbone[Any], plan: Plan, schedule: Schedule) -> None:
        self._backbone = backbone
        self._plan = plan
        self._grids = backbone.feature_grids(schedule)
        self._under_way: list[_UnderWay] = []
        self._laps = DeviceTimer(backbone.device)

    def after(self, step: int, feature: Tensor, present: Sequence[int]) -> None:
        """Decode the features of these paths, [paths, channels, H, W], for whoever watches this step."""
        self.hand_out()
        watched = self._plan.watched(step, present)
        if not watched:
            return
        self._laps.start()
        needed = sorted({place for place, _ in watched})
        # On the scale's own grid the feature is what the next step reads, and decoding costs by the pixel.
        small = resize(feature[index_tensor(needed, feature.device)], self._grids[step - 1])
        decoded = self._backbone.decode(small)
        self._laps.stop()
        self._under_way.append(_UnderWay(decoded, step, needed, watched))
        if decoded.is_ready:
            self.hand_out()

    @property
    def decode_seconds(self) -> float:
        """Of all partial images so far."""
        return sum(self._laps.seconds())

    def hand_out(self) -> None:
        """Whatever has not been, as soon as it has arrived."""
        for each in self._under_way:
            images = dict(zip(each.paths, each.decoded.images(), strict=True))
            for path, watch in each.watched:
                watch.show(Preview(images[path], each.step, self._plan.num_steps))
        self._under_way.clear()


def preview_steps(num_previews: int, *, key_step: int, num_steps: int) -> tuple[int, ...]:
    """After which steps to show so many partial images: spread from the key step to the last step but one.

    Before the key step there is no style to see, and after the last step there is the image itself. A
    schedule too short for that gives earlier steps as well, and at worst fewer.
    """
    first = max(1, min(key_step, num_steps - num_previews))
    candidates = range(first, num_steps)
    num_shown = min(num_previews, len(candidates))
    return tuple(candidates[(2 * i + 1) * len(candidates) // (2 * num_shown)] for i in range(num_shown))
