"""Infinity's image tokenizer: a convolutional autoencoder around multi-scale binary spherical quantisation.

Golden README, 1.6 and 1.9. Features and codes are [images, bits, H, W]; a code is +-1/sqrt(bits) a channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.model.convolutions import NORM_EPSILON, Downsample, ResidualBlock, Upsample
from service.model.infinity.config import TokenizerConfig
from service.model.schedule import Scale
from service.model.style.resize import pool, resize


def codes_from_bits(bits: Tensor) -> Tensor:
    """bits [..., channels, h, w] of 0 and 1 -> codes of +-1/sqrt(channels), fp32."""
    return signed_codes(bits, math.sqrt(bits.shape[-3]))


def signed_codes(bits: Tensor, root: float) -> Tensor:
    """Bits of 0 and 1 -> codes of +-1 / root, fp32."""
    return (2.0 * bits.float() - 1.0) / root


def quantise(h: Tensor, grids: Sequence[Scale], num_steps: int | None = None) -> list[Tensor]:
    """Bits of every scale, each [images, channels, h, w] bool, of an encoder output h at the last grid.

    Greedy: each scale codes what the ones before left over, so the first scales do not depend on later ones.
    """
    residual, bits = h, []
    for grid in grids[:num_steps]:
        bits.append(pool(residual, grid) > 0)
        residual = residual - resize(codes_from_bits(bits[-1]), grids[-1])
    return bits


def accumulated(bits: Sequence[Tensor], extent: Scale) -> list[Tensor]:
    """F_1, F_2, ...: the accumulated features [images, channels, H, W] after each scale's bits."""
    features: list[Tensor] = []
    for bit in bits:
        code = resize(codes_from_bits(bit), extent)
        features.append(features[-1] + code if features else code)
    return features


class Middle(nn.Module):
    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, num_groups)
        self.block_2 = ResidualBlock(channels, channels, num_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x))


class Level(nn.Module):
    """Some residual blocks at one resolution, and the change to the next."""

    def __init__(self, widths: Sequence[int], num_groups: int, resample: nn.Module) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(before, after, num_groups) for before, after in pairwise(widths)
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.resample(x)


class Encoder(nn.Module):
    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        num_downsamples = int(math.log2(config.stride))
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList(
            Level(
                [before] + [width] * config.num_blocks,
                config.num_groups,
                Downsample(width) if level < num_downsamples else nn.Identity(),
            )
            for level, (before, width) in enumerate(zip([config.channels, *widths], widths, strict=False))
        )
        self.mid = Middle(widths[-1], config.num_groups)
        self.norm_out = nn.GroupNorm(config.num_groups, widths[-1], eps=NORM_EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], config.num_bits, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        num_upsamples = int(math.log2(config.stride))
        self.conv_in = nn.Conv2d(config.num_bits, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.num_groups)
        # Stored from fine to coarse, run from coarse to fine.
        self.up = nn.ModuleList(
            Level(
                [before] + [width] * (config.num_blocks + 1),
                config.num_groups,
                Upsample(width) if 1 <= level <= num_upsamples else nn.Identity(),
            )
            for level, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = nn.GroupNorm(config.num_groups, widths[0], eps=NORM_EPSILON)
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
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def hold_decoder_in(self, dtype: torch.dtype) -> None:
        """Convert the decoder. The encoder stays fp32: the signs of what it gives are what a style is."""
        self.decoder.to(dtype)  # its norms too, whose statistics torch takes in fp32 all the same

    def encode(self, images: Tensor) -> Tensor:
        """Images [images, 3, height, width] in [-1, 1] -> unquantised features at the last grid."""
        h: Tensor = self.encoder(images)
        return h

    def decode(self, features: Tensor) -> Tensor:
        """Accumulated features -> images [images, 3, height, width] fp32, clamped to [-1, 1]."""
        images: Tensor = self.decoder(features)
        return images.float().clamp(-1, 1)
