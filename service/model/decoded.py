"""Images that were decoded and are on their way to the host."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model.transfer import Fetched


class Decoded:
    """A batch of decoded images; on a GPU the decoder may still be at work on them."""

    def __init__(self, images: Tensor) -> None:
        """Images [images, 3, height, width] fp32 in [-1, 1]."""
        pixels = ((images + 1) / 2 * 255).to(torch.uint8).permute(0, 2, 3, 1)
        self._fetched = Fetched(pixels, torch.isfinite(images).all())

    @property
    def is_there(self) -> bool:
        """Whether `images` need not wait."""
        return self._fetched.is_there

    def images(self) -> NDArray[np.uint8]:
        """[images, height, width, 3] RGB, once they are there. FloatingPointError when they are no images."""
        pixels, is_finite = self._fetched.tensors()
        if not is_finite:
            raise FloatingPointError("the image tokenizer gave pixels that are not finite")
        return pixels.numpy()
