"""StyleTokens: what an image tokenizer reads in style images up to the key step."""

from __future__ import annotations

from dataclasses import dataclass

MAX_IMAGES = 255  # of one style: the count fits a byte


@dataclass(frozen=True, slots=True)
class StyleTokens:
    """The tokens of one picture, or of several counted together, packed by the backbone that made them.

    Only that backbone can read them; style codes and stored features carry them as they are.
    """

    packed: bytes
    num_images: int = 1
