"""CodedFeatures: style features of style codes, which need no store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.styles.hot import HotFeatures

if TYPE_CHECKING:
    from service.metrics import Metrics
    from service.model.backbone import Size
    from service.model.style import StyleFeature
    from service.styles.code import StyleCodes
    from service.styles.reader import StyleReader


class CodedFeatures:
    """Restored once and hot from then on, as the features of stored styles are."""

    def __init__(self, codes: StyleCodes, reader: StyleReader, *, metrics: Metrics, max_hot: int) -> None:
        self._codes = codes
        self._reader = reader
        self._metrics = metrics
        self._hot = HotFeatures(max_hot)

    async def get(self, code: str, size: Size, *, param: str | None) -> StyleFeature:
        """InvalidRequest says why when the code is damaged or another model's. Counts a hit or a miss."""
        key = (code, self._reader.schedule_name(size))
        hot = self._hot.get(key)
        self._metrics.style_features.labels(result="miss" if hot is None else "hit").inc()
        if hot is not None:
            return hot.feature
        feature = self._reader.restore(self._codes.read(code, param=param), size)
        self._hot.put(key, feature, 0.0)  # a code exists as long as somebody has it
        return feature
