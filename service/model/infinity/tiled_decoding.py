"""The decoder in horizontal strips: the whole image's result in less memory.

Of a block only its input and its output are whole; all between them is computed strip by strip. A convolution
reads a row of the neighbouring strips on either side, and a group norm takes its statistics from a first pass
over all strips, so that no strip shows: the result is the whole one's up to rounding, and nothing but the
statistics is computed twice. (There is no attention in these decoders; golden README, 1.9.)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.model.convolutions import ResidualBlock, Upsample
from service.model.infinity.tokenizer import Decoder

# Elements of a strip: 32 rows of 256 channels, the widest layer of a picture 1024 pixels wide.
STRIP = 2**23


def decode_in_strips(decoder: Decoder, feature: Tensor, *, strip: int = STRIP) -> Tensor:
    """The image [1, 3, height, width] of one accumulated feature [1, bits, h, w], not clamped."""
    x = decoder.conv_in(feature.to(decoder.dtype))
    for block in (decoder.mid.block_1, decoder.mid.block_2):
        x = _residual(block, x, strip)
    for level in reversed(decoder.up):
        for block in level.block:  # type: ignore[union-attr]
            x = _residual(block, x, strip)
        if isinstance(level.resample, Upsample):
            x = _upsampled(level.resample.conv, x, strip)
    norm = _Norm(decoder.norm_out, x, strip)
    image = x.new_empty(1, decoder.conv_out.out_channels, *x.shape[2:])
    for first, last in _strips(x, strip):
        image[:, :, first:last] = _convolved(decoder.conv_out, norm(_around(x, first, last)), x, first, last)
    return image


class _Norm:
    """A group norm with the statistics of one whole tensor, and the SiLU behind it; called with its rows."""

    def __init__(self, norm: nn.GroupNorm, x: Tensor, strip: int) -> None:
        groups = norm.num_groups
        parts = []
        for first, last in _strips(x, strip):
            rows = x[:, :, first:last].float().reshape(groups, -1)
            variance, mean = torch.var_mean(rows, dim=1, correction=0)
            parts.append(torch.stack([mean, variance + mean.square(), torch.full_like(mean, rows.shape[1])]))
        mean, square, size = torch.stack(parts, 1).double()  # [strips, groups] each
        share = size / size.sum(0)
        mean, square = (mean * share).sum(0), (square * share).sum(0)
        inverse = (square - mean.square() + norm.eps).rsqrt().float()
        per_group = x.shape[1] // groups
        self._scale = (norm.weight.float() * inverse.repeat_interleave(per_group)).view(-1, 1, 1)
        mean = mean.float().repeat_interleave(per_group).view(-1, 1, 1)
        self._shift = norm.bias.float().view(-1, 1, 1) - mean * self._scale

    def __call__(self, rows: Tensor) -> Tensor:
        return F.silu(torch.addcmul(self._shift, rows.float(), self._scale), inplace=True).to(rows.dtype)


def _residual(block: ResidualBlock, x: Tensor, strip: int) -> Tensor:
    y = x.new_empty(1, block.conv1.out_channels, *x.shape[2:])
    norm = _Norm(block.norm1, x, strip)
    for first, last in _strips(x, strip):
        y[:, :, first:last] = _convolved(block.conv1, norm(_around(x, first, last)), x, first, last)
    norm = _Norm(block.norm2, y, strip)
    above = y[:, :, :0]
    for first, last in _strips(x, strip):
        rows = torch.cat([above, y[:, :, first : last + 1]], dim=2)
        above = y[:, :, last - 1 : last].clone()  # the next strip reads it, and it is about to be replaced
        y[:, :, first:last] = _convolved(block.conv2, norm(rows), x, first, last)
        y[:, :, first:last] += block.nin_shortcut(x[:, :, first:last])
    return y


def _upsampled(conv: nn.Conv2d, x: Tensor, strip: int) -> Tensor:
    height = x.shape[2]
    y = x.new_empty(1, conv.out_channels, 2 * height, 2 * x.shape[3])
    for first, last in _strips(x, strip // 4):
        rows = F.interpolate(_around(x, first, last), scale_factor=2.0, mode="nearest")
        # Of the neighbours' doubled rows one each is read.
        rows = rows[:, :, first > 0 : rows.shape[2] - (last < height)]
        y[:, :, 2 * first : 2 * last] = _convolved(conv, rows, x, first, last)
    return y


def _around(x: Tensor, first: int, last: int) -> Tensor:
    """The rows of a strip, and one on either side inside the picture."""
    return x[:, :, max(first - 1, 0) : last + 1]


def _convolved(conv: nn.Conv2d, rows: Tensor, x: Tensor, first: int, last: int) -> Tensor:
    """A 3 x 3 convolution of `_around`'s rows: zeros only where the whole picture `x` ends."""
    if first == 0 or last == x.shape[2]:
        rows = F.pad(rows, (0, 0, int(first == 0), int(last == x.shape[2])))
    return F.conv2d(rows, conv.weight, conv.bias, padding=(0, 1))


def _strips(x: Tensor, strip: int) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of each strip, as even as can be."""
    height = x.shape[2]
    num_strips = min(height, -(-x[0].numel() // max(strip, 1)))
    bounds = [height * index // num_strips for index in range(num_strips + 1)]
    return pairwise(bounds)
