"""Partial images while a batch is drawn: decoded between its steps, handed out once they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from service.model.backbone import Backbone, Schedule
from service.model.decoded import Decoded
from service.model.laps import Laps
from service.model.partial import Partial, Watch
from service.model.plan import Plan
from service.model.resize import resize
from service.model.transfer import places


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """Images on their way to who watches."""

    decoded: Decoded
    step: int
    paths: list[int]  # that were decoded, by their places
    watched: list[tuple[int, Watch]]


class Showing:
    """Of one batch. On a GPU an image is waited for once the next step is launched: there is work then."""

    def __init__(self, backbone: Backbone[Any], plan: Plan, schedule: Schedule) -> None:
        self._backbone = backbone
        self._plan = plan
        self._grids = backbone.feature_grids(schedule)
        self._under_way: list[_UnderWay] = []
        self._laps = Laps(backbone.device)

    def after(self, step: int, feature: Tensor, present: Sequence[int]) -> None:
        """Decode the features of these paths, [paths, channels, H, W], for whoever watches this step."""
        self.hand_out()
        watched = self._plan.watched(step, present)
        if not watched:
            return
        self._laps.start()
        needed = sorted({place for place, _ in watched})
        # On the scale's own grid the feature is what the next step reads, and decoding costs by the pixel.
        small = resize(feature[places(needed, feature.device)], self._grids[step - 1])
        decoded = self._backbone.decode(small)
        self._laps.stop()
        self._under_way.append(_UnderWay(decoded, step, needed, watched))
        if decoded.is_there:
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
                watch.show(Partial(images[path], each.step, self._plan.num_steps))
        self._under_way.clear()
