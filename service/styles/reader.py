"""What the style store needs of the model that is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from service.media import Picture
    from service.model.backbone import Size
    from service.model.bits import StyleBits
    from service.model.style import StyleFeature
    from service.stages import Stages


@dataclass(frozen=True, slots=True)
class Words:
    """What a style without pictures is made of."""

    text: str
    seed: int


class StyleReader(Protocol):
    """Reads pictures, words and bits into style features. Errors of the model pass through the store."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """16 hex characters; models of one fingerprint read the same bits from the same picture."""

    @property
    def default_size(self) -> Size: ...

    @property
    def style_shape(self) -> tuple[int, int]:
        """Tokens and channels of the bits of a style at the default size."""

    def schedule_name(self, size: Size) -> str:
        """Names all that a style feature depends on besides the picture and the model."""

    async def extract(self, picture: Picture, size: Size, stages: Stages) -> StyleFeature:
        """What it spends its time on is told to `stages`."""

    async def imagine(self, words: Words, stages: Stages) -> StyleFeature:
        """At the default size."""

    def restore(self, bits: StyleBits, size: Size) -> StyleFeature:
        """From bits that were read at the default size; some tenths of a millisecond."""
