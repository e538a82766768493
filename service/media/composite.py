"""Composite: the picture's own pixels outside a mask, over an image that was drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter


@dataclass(frozen=True, slots=True, eq=False)
class Composite:
    """A picture and how much of an image goes over it."""

    picture: NDArray[np.uint8]  # [height, width, 3] RGB
    amount: NDArray[np.uint8]  # [height, width]: 255 where the image shows, 0 where the picture does

    @classmethod
    def of(cls, picture: NDArray[np.uint8], edited: NDArray[np.bool_], feather: int) -> Composite:
        """The image shows where `edited` [height, width] is true, and fades out within `feather` pixels."""
        radius = feather // 2
        mask = Image.fromarray(edited.astype(np.uint8) * 255)
        # A box as wide as the mask was widened by: all of it inside, nothing of it beyond the feather.
        soft = mask.filter(ImageFilter.MaxFilter(2 * radius + 1)).filter(ImageFilter.BoxBlur(radius))
        return cls(picture, np.asarray(soft))

    def under(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image [h, w, 3], which may be smaller, with the picture where that shows."""
        height, width, _ = image.shape
        picture, amount = Image.fromarray(self.picture), Image.fromarray(self.amount)
        if picture.size != (width, height):
            picture, amount = (
                part.resize((width, height), Image.Resampling.BOX) for part in (picture, amount)
            )
        return np.asarray(Image.composite(Image.fromarray(image), picture, amount))
