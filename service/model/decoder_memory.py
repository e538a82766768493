"""Memory that a convolutional image decoder takes: residual blocks and upsamplings, coarse to fine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from service.model.schedule import Scale


class DecoderShape(Protocol):
    """The part of an image tokenizer's configuration that decides what decoding takes."""

    @property
    def channels(self) -> int: ...

    @property
    def multipliers(self) -> tuple[int, ...]:
        """Widths of the levels, fine to coarse, in `channels`."""

    @property
    def stride(self) -> int:
        """Pixels on a side that one cell of the coarsest level covers."""


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """A residual block or an upsampling: channels in and out, and pixels, of one image."""

    channels_in: int
    channels_out: int
    num_pixels: int  # of the output
    scale: int = 1  # 2: upsamples
    held: int = 0  # elements of the level's input, kept by whoever called


def whole_bytes(shape: DecoderShape, grid: Scale, dtype: torch.dtype) -> int:
    """Memory at the peak of decoding one image of a tokenizer grid whole, besides the weights."""
    return max(_whole_peak(layer, dtype.itemsize) for layer in layers_of(shape, grid))


def layers_of(shape: DecoderShape, grid: Scale) -> Iterator[DecoderLayer]:
    widths = [shape.channels * multiplier for multiplier in shape.multipliers]
    num_pixels, before = grid.num_tokens, widths[-1]
    yield DecoderLayer(before, before, num_pixels)
    num_doublings = shape.stride.bit_length() - 1
    for level, width in reversed(list(enumerate(widths))):
        yield DecoderLayer(before, width, num_pixels)
        yield DecoderLayer(width, width, num_pixels, held=before * num_pixels)
        if 1 <= level <= num_doublings:
            num_pixels *= 4
            yield DecoderLayer(width, width, num_pixels, scale=2, held=before * num_pixels // 4)
        before = width


def _whole_peak(layer: DecoderLayer, number: int) -> int:
    x, y = layer.channels_in * layer.num_pixels, layer.channels_out * layer.num_pixels
    if layer.scale == 2:  # the input, it doubled, and the result
        return number * (layer.held + x // 4 + x + y)
    norms = number * (x + 2 * max(x, y))
    convolutions = number * (x + max(x, y) + y + x)  # the last is what a GPU's kernel may take
    return number * layer.held + max(norms, convolutions)
