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
    """Makes style features of pictures, texts and style tokens. The model's errors pass through the store."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """16 hex characters; models of one fingerprint extract the same tokens from the same picture."""

    @property
    def style_size(self) -> Size:
        """At which style tokens are extracted: the model's own, whatever sizes are enabled."""

    def schedule_name(self, size: Size) -> str:
        """Names everything that a style feature depends on besides the picture and the model."""

    async def extract(self, picture: Picture, size: Size, stages: StageTimer) -> StyleFeature:
        """`stages` is given the time of each stage."""

    async def extract_text(self, text: StyleText, stages: StageTimer) -> StyleFeature:
        """At the style size."""

    def restore(self, tokens: StyleTokens, size: Size) -> StyleFeature:
        """From tokens extracted at the style size; takes some tenths of a millisecond."""

    def combine(self, features: Sequence[StyleFeature], size: Size) -> StyleFeature:
        """The feature of all their pictures together, extracted for this size: the mean."""

    def check_tokens(self, tokens: StyleTokens) -> None:
        """ValueError unless these are tokens of this model, extracted at the style size."""

    def agreement(self, feature: StyleFeature) -> float | None:
        """How alike the pictures of a style are, -1 to 1; None for one picture."""
