"""What Pillow does not say of a JPEG: at which size it decodes it, and whether the file ended early."""

from __future__ import annotations

import numpy as np
from PIL import Image

# What libjpeg draws where data is missing: all coefficients zero.
_FILLER = 128
_MCU = 16  # pixels a side of the largest unit of coding
_MAX_TAIL_BYTES = 64
_MIN_TAIL_BYTES = 16


def draft_scale(width: int, height: int, wanted: tuple[int, int]) -> int:
    """By how much `ImageFile.draft` shrinks each side of a JPEG: 1, 2, 4 or 8, never below `wanted`."""
    room = min(width // wanted[0], height // wanted[1])
    return next(scale for scale in (8, 4, 2, 1) if scale <= max(1, room))


def ends_early(image: Image.Image, drawable: bytes, scale: int) -> bool:
    """Whether the data of a baseline JPEG ended, with an end mark, before the picture did.

    libjpeg only warns of it, and Pillow keeps the warning to itself. The rest is then the filler's grey. A
    picture that really ends in this grey has data for it, which repeats, as flat areas do: at least a byte
    for 16 x 16 pixels.
    """
    if image.mode not in ("L", "RGB") or image.info.get("progressive") or drawable.count(b"\xff\xda") != 1:
        return False
    if b"\xff\xdd" in drawable[: drawable.index(b"\xff\xda")]:  # restart marks would interrupt the pattern
        return False
    pixels = np.asarray(image).reshape(image.height, -1)
    other_rows = np.flatnonzero((pixels != _FILLER).any(1))
    num_filled = image.height - 1 - int(other_rows[-1]) if len(other_rows) else image.height
    num_units = (num_filled * scale // _MCU) * (image.width * scale // _MCU)
    num_bytes = min(num_units - 2, _MAX_TAIL_BYTES)
    if num_bytes < _MIN_TAIL_BYTES:
        return False
    tail = drawable[-3 - num_bytes : -3].replace(b"\xff\0", b"\xff")  # before a padded byte and the end mark
    bits = np.unpackbits(np.frombuffer(tail, np.uint8))
    return not any((bits[period:] == bits[:-period]).all() for period in range(1, len(bits) // 2 + 1))
