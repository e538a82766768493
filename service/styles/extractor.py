"""What the style store needs of the model that is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.media.images import Picture
    from service.model.schedule import Size
    from service.model.style.feature import StyleFeature
    from service.model.style.tokens import StyleTokens
    from service.stage_timer import StageTimer


@dataclass(frozen=True, slots=True)
class StyleText:
    """What a style without pictures is made of."""

    text: str
    seed: int


class StyleExtractor(Protocol):
    """Reads pictures, words and bits into style features. Errors of the model pass through the store."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """16 hex characters; models of one fingerprint read the same bits from the same picture."""

    @property
    def style_size(self) -> Size:
        """At which a style's bits are read: the model's own, whatever sizes are enabled."""

    def check_tokens(self, tokens: StyleTokens) -> None:
        """ValueError unless these are tokens of this model, read at the style size."""

    def combine(self, features: Sequence[StyleFeature], size: Size) -> StyleFeature:
        """The style feature of all their pictures together, the mean of the features."""

    def agreement(self, feature: StyleFeature) -> float | None:
        """How alike the pictures of a style are, -1 to 1; None for one picture."""

    def schedule_name(self, size: Size) -> str:
        """Names all that a style feature depends on besides the picture and the model."""

    async def extract(self, picture: Picture, size: Size, stages: StageTimer) -> StyleFeature:
        """What it spends its time on is told to `stages`."""

    async def imagine(self, words: StyleText, stages: StageTimer) -> StyleFeature:
        """At the style size."""

    def restore(self, bits: StyleTokens, size: Size) -> StyleFeature:
        """From bits that were read at the style size; some tenths of a millisecond."""
