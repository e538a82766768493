"""Switti's image tokenizer: a convolutional autoencoder with attention around a residual vector quantiser.

Golden README, 6. Features and codes are [images, code channels, H, W]; tokens are indices into the codebook.

A scale's codes are up-sampled to the extent (the last grid, bicubic) and pass through phi, half themselves
and half a 3 x 3 convolution with bias. The accumulated feature is the sum over scales; the next scale looks
at its means over cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.model.convolutions import NORM_EPSILON, Downsample, ResidualBlock, Upsample
from service.model.schedule import Scale
from service.model.style.resize import pool
from service.model.switti.config import TokenizerConfig

NUM_PHIS = 4  # residual convolutions, shared by neighbouring scales


def upsample(planes: Tensor, extent: Scale) -> Tensor:
    """Bicubic, without corner alignment."""
    size = (extent.height, extent.width)
    return planes if planes.shape[-2:] == size else F.interpolate(planes, size=size, mode="bicubic")


def phi_index(step: int, num_steps: int) -> int:
    """Which of the shared convolutions step `step` of `num_steps` uses.

    At ten steps the third and the eighth lie half-way between two of the four, so that rounding decides: this
    is the reference's arithmetic in fp64, number by number.
    """
    ticks = np.linspace(1 / 3 / NUM_PHIS, 1 - 1 / 3 / NUM_PHIS, NUM_PHIS)
    return int(np.argmin(np.abs(ticks - (step - 1) / (num_steps - 1))))


class Attention(nn.Module):
    """Attention of one head between all cells."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels, eps=NORM_EPSILON)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.qkv(self.norm(x)).flatten(2).mT  # [images, cells, 3 channels]
        q, k, v = cells.contiguous().chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj_out(attended.mT.reshape(x.shape))


class Middle(nn.Module):
    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, num_groups)
        self.attn_1 = Attention(channels, num_groups)
        self.block_2 = ResidualBlock(channels, channels, num_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Some residual blocks at one resolution, each followed by attention at the coarsest."""

    def __init__(self, widths: Sequence[int], num_groups: int, *, has_attention: bool) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.block = nn.ModuleList(ResidualBlock(before, after, num_groups) for before, after in pairs)
        self.attn = nn.ModuleList(Attention(after, num_groups) for _, after in pairs if has_attention)

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        return x


class DownLevel(Level):
    """A level, and the change to the next coarser one."""

    def __init__(self, widths: Sequence[int], num_groups: int, *, has_attention: bool, is_last: bool) -> None:
        super().__init__(widths, num_groups, has_attention=has_attention)
        self.downsample = nn.Identity() if is_last else Downsample(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(super().forward(x))


class UpLevel(Level):
    """A level, and the change to the next finer one."""

    def __init__(self, widths: Sequence[int], num_groups: int, *, has_attention: bool, is_last: bool) -> None:
        super().__init__(widths, num_groups, has_attention=has_attention)
        self.upsample = nn.Identity() if is_last else Upsample(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(super().forward(x))


class Encoder(nn.Module):
    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths, num_groups = _widths(config), config.num_groups
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(
                [before] + [width] * config.num_blocks,
                num_groups,
                has_attention=level == last,
                is_last=level == last,
            )
            for level, (before, width) in enumerate(zip([config.channels, *widths], widths, strict=False))
        )
        self.mid = Middle(widths[-1], num_groups)
        self.norm_out = nn.GroupNorm(num_groups, widths[-1], eps=NORM_EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], config.code_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths, num_groups = _widths(config), config.num_groups
        self.conv_in = nn.Conv2d(config.code_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], num_groups)
        # Stored from fine to coarse, run from coarse to fine.
        self.up = nn.ModuleList(
            UpLevel(
                [before] + [width] * (config.num_blocks + 1),
                num_groups,
                has_attention=level == len(widths) - 1,
                is_last=level == 0,
            )
            for level, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = nn.GroupNorm(num_groups, widths[0], eps=NORM_EPSILON)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x.to(self.dtype)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Tokenizer(nn.Module):
    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.code_channels
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.codebook = nn.Embedding(config.num_codes, channels)
        self.phis = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(NUM_PHIS))
        self.post_quant_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.decoder = Decoder(config)

    def hold_decoder_in(self, dtype: torch.dtype) -> None:
        """Convert the decoder. What codes and accumulates stays fp32: it decides what a style is."""
        self.decoder.to(dtype)

    def encode(self, images: Tensor) -> Tensor:
        """Images [images, 3, height, width] in [-1, 1] -> unquantised features at the last grid."""
        features: Tensor = self.quant_conv(self.encoder(images))
        return features

    def nearest(self, vectors: Tensor) -> Tensor:
        """The token of the code nearest to each vector [..., code channels]: [...] int64."""
        codebook = self.codebook.weight
        distances = codebook.square().sum(1) - 2 * vectors @ codebook.T  # but for what is the same for all
        return distances.argmin(-1)

    def quantise(
        self, features: Tensor, grids: Sequence[Scale], num_steps: int | None = None
    ) -> list[Tensor]:
        """Tokens of every scale, each [images, tokens] int64, of `encode`'s features at the last grid.

        Greedy: each scale codes what those before left over, so the first ones do not depend on later ones.
        """
        residual, tokens = features, []
        for step, grid in enumerate(grids[:num_steps], start=1):
            tokens.append(self.nearest(pool(residual, grid).flatten(2).mT))
            residual = residual - self.spread(self.codes(tokens[-1], grid), step, grids)
        return tokens

    def codes(self, tokens: Tensor, grid: Scale) -> Tensor:
        """Tokens of one scale [images, tokens] -> codes [images, code channels, h, w]."""
        return as_planes(self.codebook(tokens), grid)

    def spread(self, codes: Tensor, step: int, grids: Sequence[Scale]) -> Tensor:
        """What the codes of a scale add to the feature: phi of them at the extent, `grids[-1]`.

        `grids` are all of the schedule, however many steps are run: they decide which phi it is.
        """
        phi = cast(nn.Conv2d, self.phis[phi_index(step, len(grids))])
        # In one memory format: torch would choose by strides, which say less of one image than of several.
        planes = upsample(codes.contiguous(), grids[-1]).contiguous()
        weight, bias = phi.weight.to(planes.dtype), cast(Tensor, phi.bias).to(planes.dtype)
        # One image at a time on the CPU, whose convolutions round differently in other batches.
        parts = planes.split(1 if planes.device.type == "cpu" else len(planes))
        mixed = torch.cat([F.conv2d(part, weight, bias, padding=1) for part in parts])
        return 0.5 * planes + 0.5 * mixed

    def accumulated(self, tokens: Sequence[Tensor], grids: Sequence[Scale]) -> list[Tensor]:
        """F_1, F_2, ...: the accumulated features [images, code channels, H, W] after each scale's tokens."""
        features: list[Tensor] = []
        for step, (scale, grid) in enumerate(zip(tokens, grids, strict=False), start=1):
            part = self.spread(self.codes(scale, grid), step, grids)
            features.append(features[-1] + part if features else part)
        return features

    def decode(self, features: Tensor) -> Tensor:
        """Accumulated features -> images [images, 3, height, width] fp32, clamped to [-1, 1]."""
        images: Tensor = self.decoder(self.post_quant_conv(features))
        return images.float().clamp(-1, 1)


def as_planes(values: Tensor, grid: Scale) -> Tensor:
    """Values of tokens [images, tokens, channels] on their grid, [images, channels, h, w]."""
    return values.mT.unflatten(-1, (grid.height, grid.width))


def as_tokens(planes: Tensor) -> Tensor:
    """The inverse of `as_planes`."""
    return planes.flatten(2).mT


def _widths(config: TokenizerConfig) -> list[int]:
    return [config.channels * multiplier for multiplier in config.multipliers]
