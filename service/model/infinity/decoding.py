"""DecoderRunner: whole images, as many at once as memory holds; or one after another, in strips."""

from __future__ import annotations

import torch
from torch import Tensor

from service.model.checkpoints.options import DecodingChoice
from service.model.decoder_memory import DecoderLayer, layers_of, whole_bytes
from service.model.device.memory import free_bytes
from service.model.infinity.config import TokenizerConfig
from service.model.infinity.tiled_decoding import STRIP, decode_in_strips
from service.model.infinity.tokenizer import Tokenizer
from service.model.schedule import Scale

_FULL = 4  # bytes of an fp32 number
# Copies of one strip: its rows, in fp32, normed, with their edges; the result; what convolutions take.
_STRIPS_ALIVE = 6
# Share of the memory that is free once the weights are resident. Caches are given back before an image is
# decoded; what is left out is for fragments and, on a CPU, for everybody else.
_SHARE = 0.6


def workspace_bytes(config: TokenizerConfig, grid: Scale, dtype: torch.dtype, *, in_strips: bool) -> int:
    """Memory that decoding one image of a tokenizer grid takes at its peak, besides the weights.

    Counts the tensors that live at once, and a copy of a convolution's input, which a GPU's kernel may take.
    For 1024 x 1024 that is 3.5 GiB in fp32 and 1.7 in strips; measured on an EPYC: 3.0 and 1.6.
    """
    if not in_strips:
        return whole_bytes(config, grid, dtype)
    return max(_strips_peak(layer, dtype.itemsize) for layer in layers_of(config, grid))


class DecoderRunner:
    """A tokenizer's decoder, and how it is run.

    That is settled by the memory that is free when this is made, and not when an image is: strips round
    differently, and an image should not depend on what else its machine is doing.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        mode: DecodingChoice = "auto",
        *,
        budget_bytes: int | None = None,
        device: torch.device | None = None,
        mapped_bytes: int = 0,
    ) -> None:
        """By default the budget is a share of what is free, on the device that holds the decoder, beside
        weights of `mapped_bytes` in files."""
        self._tokenizer = tokenizer
        self.mode = mode
        self._device = device or tokenizer.decoder.conv_in.weight.device
        if budget_bytes is None:
            budget_bytes = int(free_bytes(self._device, mapped_bytes) * _SHARE)
        self._budget_bytes = budget_bytes

    def num_at_once(self, grid: Scale) -> int:
        """Images of a grid that are decoded together; 0: one after another, in strips."""
        if self.mode == "strips":
            return 0
        image_bytes = workspace_bytes(
            self._tokenizer.config, grid, self._tokenizer.decoder.dtype, in_strips=False
        )
        fitting = self._budget_bytes // image_bytes
        if self.mode == "whole":
            fitting = max(1, fitting)
        # One at a time on the CPU, where it costs nothing and convolutions round alike whatever the batch.
        return min(fitting, 1) if self._device.type == "cpu" else fitting

    def images(self, features: Tensor) -> Tensor:
        """Accumulated features [images, bits, h, w] -> [images, 3, height, width] fp32 in [-1, 1]."""
        num = self.num_at_once(Scale(*features.shape[2:]))
        if num:
            parts = [self._tokenizer.decode(part) for part in features.split(num)]
        else:
            decoder = self._tokenizer.decoder
            parts = [decode_in_strips(decoder, feature).float().clamp(-1, 1) for feature in features.split(1)]
        return torch.cat(parts)


def _strips_peak(layer: DecoderLayer, number: int) -> int:
    x, y = layer.channels_in * layer.num_pixels // layer.scale**2, layer.channels_out * layer.num_pixels
    widest = max(layer.channels_in, layer.channels_out) * layer.num_pixels
    return number * (x + y) + _STRIPS_ALIVE * _FULL * min(widest, STRIP)
