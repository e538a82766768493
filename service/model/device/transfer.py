"""Between the host and a device without waiting for what the device is doing.

A plain copy, and indexing with a list, which copies it, wait for everything that was launched before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.model.device.cores import usable_cores
from service.model.schedule import Size


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device; what is launched there next finds it."""
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True)


def index_tensor(indices: Sequence[int], device: torch.device) -> Tensor:
    """Indices to index a tensor on that device with."""
    return send(torch.tensor(indices, dtype=torch.int64), device)


def cut_to(image: Image.Image, size: Size) -> Image.Image:
    """A picture as the reference prepares it: scaled to cover the size, to whole pixels, then cropped at the
    centre to whole pixels (golden README, 1.9). Whoever changes it raises `PREPARATION` (style/tokens.py).
    """
    ratio = image.width / image.height
    if ratio <= size.width / size.height:
        covering = (size.width, max(size.height, int(size.width / ratio)))
    else:
        covering = (max(size.width, int(size.height * ratio)), size.height)
    scaled = image.resize(covering, Image.Resampling.LANCZOS)
    top, left = (covering[1] - size.height) // 2, (covering[0] - size.width) // 2
    return scaled.crop((left, top, left + size.width, top + size.height))


def pixels_of(image: NDArray[np.uint8], size: Size, device: torch.device) -> Tensor:
    """A picture [h, w, 3] RGB, cut to the size: [1, 3, height, width] fp32 in [-1, 1]."""
    cut = np.array(cut_to(Image.fromarray(image), size))
    pixels = torch.from_numpy(cut).to(device).permute(2, 0, 1)[None]
    return pixels.float() / 255 * 2 - 1


def decodes_beside(device: torch.device) -> bool:
    """Whether the images of a batch are decoded by another thread, beside the next batch's steps.

    A GPU does one after the other. On a CPU the model's threads leave cores to other work; where these are as
    many, they decode: operations of one team of threads wait for its slowest, so two must not share a core.
    """
    return device.type == "cpu" and usable_cores() >= 2 * torch.get_num_threads()


class DecodedImages:
    """A batch of decoded images on its way to the host; on a GPU the decoder may still be at work on it.

    What is launched on the GPU next does not disturb it. Any thread may wait for it.
    """

    def __init__(self, images: Tensor) -> None:
        """Images [images, 3, height, width] fp32 in [-1, 1]."""
        pixels = ((images + 1) / 2 * 255).to(torch.uint8).permute(0, 2, 3, 1)
        self._pixels = pixels.to("cpu", non_blocking=True)  # from a GPU: to pinned memory
        self._is_finite = torch.isfinite(images).all().to("cpu", non_blocking=True)
        self._device = images.device
        self._arrival: torch.cuda.Event | None = None
        if self._device.type == "cuda":
            self._arrival = torch.cuda.Event(blocking=True)  # a waiting thread leaves the core to others
            self._arrival.record(torch.cuda.current_stream(self._device))

    @property
    def is_ready(self) -> bool:
        """Whether `images` need not wait."""
        return self._arrival is None or self._arrival.query()

    def images(self) -> NDArray[np.uint8]:
        """[images, height, width, 3] RGB, once they are there. FloatingPointError when they are no images."""
        if self._arrival is not None:
            with torch.cuda.device(self._device):
                self._arrival.synchronize()
        if not self._is_finite:
            raise FloatingPointError("the image tokenizer gave pixels that are not finite")
        return self._pixels.numpy()
