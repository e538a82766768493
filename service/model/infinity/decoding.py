"""Decoding: whole images, as many at once as memory holds; or one after another, in strips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from service.model.backbone import Scale
from service.model.infinity.config import TokenizerConfig
from service.model.infinity.strips import STRIP, decode_in_strips
from service.model.infinity.tokenizer import Tokenizer
from service.model.memory import free_bytes

MODES = ("auto", "whole", "strips")
# Share of the memory that is free once the weights are resident. Caches are given back before an image is
# decoded; what is left out is for fragments and, on a CPU, for everybody else.
_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class _Layer:
    """A residual block or an upsampling: channels in and out, and pixels, of one image."""

    channels_in: int
    channels_out: int
    num_pixels: int  # of the output
    scale: int = 1  # 2: upsamples
    held: int = 0  # elements of the level's input, kept by whoever called


def workspace_bytes(config: TokenizerConfig, grid: Scale, dtype: torch.dtype, *, in_strips: bool) -> int:
    """Memory that decoding one image of a tokenizer grid takes at its peak, besides the weights.

    Counts the tensors that live at once, and one more copy of a convolution's input and output: its kernels
    lay them out anew.
    """
    peaks = (_strips_peak(each) if in_strips else _whole_peak(each) for each in _layers(config, grid))
    return dtype.itemsize * max(peaks)


class Decoding:
    """A tokenizer's decoder, and how it is run.

    That is settled by the memory that is free when this is made, and not when an image is: strips round
    differently, and an image should not depend on what else its machine is doing.
    """

    def __init__(self, tokenizer: Tokenizer, mode: str = "auto") -> None:
        self._tokenizer = tokenizer
        self._mode = mode
        self._device = tokenizer.decoder.conv_in.weight.device
        self.budget_bytes = int(free_bytes(self._device) * _SHARE)

    def num_at_once(self, grid: Scale) -> int:
        """Images of a grid that are decoded together; 0: one after another, in strips."""
        if self._mode == "strips":
            return 0
        each = workspace_bytes(self._tokenizer.config, grid, self._tokenizer.decoder.dtype, in_strips=False)
        fitting = self.budget_bytes // each
        if self._mode == "whole":
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
            parts = [decode_in_strips(decoder, each).float().clamp(-1, 1) for each in features.split(1)]
        return torch.cat(parts)


def _layers(config: TokenizerConfig, grid: Scale) -> Iterator[_Layer]:
    widths = [config.channels * multiplier for multiplier in config.multipliers]
    num_pixels, before = grid.num_tokens, widths[-1]
    yield _Layer(before, before, num_pixels)
    num_doublings = config.stride.bit_length() - 1
    for level, width in reversed(list(enumerate(widths))):
        yield _Layer(before, width, num_pixels)
        yield _Layer(width, width, num_pixels, held=before * num_pixels)
        if 1 <= level <= num_doublings:
            num_pixels *= 4
            yield _Layer(width, width, num_pixels, scale=2, held=before * num_pixels // 4)
        before = width


def _whole_peak(layer: _Layer) -> int:
    x, y = layer.channels_in * layer.num_pixels, layer.channels_out * layer.num_pixels
    if layer.scale == 2:  # the input, it doubled, the result; the two again
        return layer.held + x // 4 + 2 * (x + y)
    norms = x + 2 * max(x, y)
    convolutions = x + 2 * (max(x, y) + y)
    return layer.held + max(norms, convolutions)


def _strips_peak(layer: _Layer) -> int:
    x, y = layer.channels_in * layer.num_pixels // layer.scale**2, layer.channels_out * layer.num_pixels
    widest = max(layer.channels_in, layer.channels_out) * layer.num_pixels
    # Rows read, in fp32 and active, the same padded; the result; the two again.
    return x + y + 6 * min(widest, STRIP)
