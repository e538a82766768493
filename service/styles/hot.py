"""The style features used last, in this process."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.model.style import StyleFeature


@dataclass(slots=True)
class HotFeature:
    feature: StyleFeature
    checked: float  # when the store last confirmed that the style exists, in seconds


class HotFeatures:
    """A bounded LRU from (style ID, schedule) to a feature."""

    def __init__(self, max_features: int) -> None:
        self._max_features = max_features
        self._features: OrderedDict[tuple[str, str], HotFeature] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, key: tuple[str, str]) -> HotFeature | None:
        hot = self._features.get(key)
        if hot is not None:
            self._features.move_to_end(key)
        return hot

    def put(self, key: tuple[str, str], feature: StyleFeature, checked: float) -> None:
        self._features[key] = HotFeature(feature, checked)
        self._features.move_to_end(key)
        while len(self._features) > self._max_features:
            self._features.popitem(last=False)

    def forget(self, style_id: str) -> None:
        """Drop the features of a style, of every schedule."""
        for key in [key for key in self._features if key[0] == style_id]:
            del self._features[key]
