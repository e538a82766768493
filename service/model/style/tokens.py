"""StyleTokens: what an image tokenizer reads in style images up to the key step."""

from __future__ import annotations

from dataclasses import dataclass

MAX_IMAGES = 255  # of one style: the count fits a byte


# The version of how a picture becomes pixels before its tokens are read. Kept features and analyses of
# pictures name it, so that those of an earlier version are computed anew. A style's ID is of its pictures
# alone, and a style code holds the tokens themselves: both stay what they were. Version 1 cropped at
# fractions of a pixel and then scaled; version 2 does as the reference: it scales, and then crops.
PREPARATION = 2


@dataclass(frozen=True, slots=True)
class StyleTokens:
    """The tokens of one picture, or of several counted together, packed by the backbone that made them.

    Only that backbone can read them; style codes and stored features carry them as they are.
    """

    packed: bytes
    num_images: int = 1
