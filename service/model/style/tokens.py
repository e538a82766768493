"""StyleTokens: the residual bits of one picture up to the key step, or of several counted together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_IMAGES = 255  # a count fits a byte


@dataclass(frozen=True, slots=True, eq=False)
class StyleTokens:
    """How many of `num_images` pictures have a 1 at each place: of one picture, its bits themselves.

    Counting loses nothing that an average needs, does not depend on the order of the pictures, and stays
    small: ten pictures take four bits a place, not ten.
    """

    ones: NDArray[np.uint8]  # [tokens, channels], each from 0 to num_images
    num_images: int = 1

    def pack(self) -> bytes:
        """As bit planes, the lowest first, without a gap; the last byte is filled up with zeros."""
        shifts = np.arange(self.num_images.bit_length(), dtype=np.uint8).reshape(-1, 1, 1)
        return np.packbits((self.ones >> shifts) & 1).tobytes()

    @classmethod
    def unpack(cls, packed: bytes, shape: tuple[int, int], num_images: int) -> StyleTokens:
        """The inverse of `pack`; ValueError when these bytes are not what `pack` gives for such bits."""
        if not 1 <= num_images <= MAX_IMAGES:
            raise ValueError(f"the bits of {num_images} pictures cannot be")
        num_planes, num_places = num_images.bit_length(), shape[0] * shape[1]
        if len(packed) != -(-num_planes * num_places // 8):
            raise ValueError(f"{len(packed)} bytes are not {num_planes} x {num_places} bits")
        flat = np.unpackbits(np.frombuffer(packed, np.uint8))
        planes, rest = np.split(flat, [num_planes * num_places])
        weights = np.left_shift(1, np.arange(num_planes), dtype=np.int64)
        ones = weights @ planes.reshape(num_planes, num_places)
        if rest.any() or ones.max(initial=0) > num_images:
            raise ValueError(f"these are not the bits of {num_images} pictures")
        return cls(ones.astype(np.uint8).reshape(shape), num_images)


def counted(parts: Sequence[StyleTokens]) -> StyleTokens:
    """The bits of all these pictures together; ValueError when their shapes differ or they are too many."""
    num_images = sum(part.num_images for part in parts)
    if len({part.ones.shape for part in parts}) != 1 or num_images > MAX_IMAGES:
        raise ValueError("these bits cannot be counted together")
    ones = np.stack([part.ones for part in parts]).sum(0, dtype=np.int64)
    return StyleTokens(ones.astype(np.uint8), num_images)
