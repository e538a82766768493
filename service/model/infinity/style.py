"""Styles as Infinity's image tokenizer reads them: bits, and features that are linear in them.

F = A C, with A the fixed upsampling basis of a schedule's scales and C the codes [tokens, channels] of +-1 /
sqrt(channels). With A = Q R, the SVD of the small R C has the singular values and right vectors of F, so no
style is decomposed at the size of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model.schedule import Scale
from service.model.style.blending import reweighted
from service.model.style.feature import StyleFeature
from service.model.style.resize import resize
from service.model.style.tokens import MAX_IMAGES, StyleTokens

# A singular value below this share of the largest is rounding, and its vector arbitrary.
_RANK_TOLERANCE = 1e-9

# How many pictures have a 1 at each place, [tokens, channels]: of one picture, its bits. Counting loses
# nothing that a mean needs, does not depend on the order of the pictures, and ten pictures take four bits a
# place, not ten.
Counts = NDArray[np.uint8]


def pack(counts: Counts, num_images: int = 1) -> StyleTokens:
    """As bit planes, the lowest first, without a gap; the last byte is filled up with zeros."""
    shifts = np.arange(num_images.bit_length(), dtype=np.uint8).reshape(-1, 1, 1)
    return StyleTokens(np.packbits((counts >> shifts) & 1).tobytes(), num_images)


def unpack(tokens: StyleTokens, num_tokens: int, num_channels: int) -> Counts:
    """The inverse of `pack`; ValueError when these bytes are not what `pack` gives for such bits."""
    num_images, packed = tokens.num_images, tokens.packed
    if not 1 <= num_images <= MAX_IMAGES:
        raise ValueError(f"the bits of {num_images} pictures cannot be")
    num_planes, num_places = num_images.bit_length(), num_tokens * num_channels
    if len(packed) != -(-num_planes * num_places // 8):
        raise ValueError(f"{len(packed)} bytes are not {num_planes} x {num_places} bits")
    flat = np.unpackbits(np.frombuffer(packed, np.uint8))
    planes, rest = np.split(flat, [num_planes * num_places])
    weights = np.left_shift(1, np.arange(num_planes), dtype=np.int64)
    counts = weights @ planes.reshape(num_planes, num_places)
    if rest.any() or counts.max(initial=0) > num_images:
        raise ValueError(f"these are not the bits of {num_images} pictures")
    return counts.astype(np.uint8).reshape(num_tokens, num_channels)


def combine(tokens: Sequence[StyleTokens], num_tokens: int, num_channels: int) -> StyleTokens:
    """The tokens of all these pictures together; ValueError when they are too many, or of another shape."""
    num_images = sum(part.num_images for part in tokens)
    if num_images > MAX_IMAGES:
        raise ValueError(f"a style is made of at most {MAX_IMAGES} pictures, not {num_images}")
    counts = np.stack([unpack(part, num_tokens, num_channels) for part in tokens]).sum(0, dtype=np.int64)
    return pack(counts.astype(np.uint8), num_images)


def decompose(tokens: StyleTokens, grids: Sequence[Scale], extent: Scale, num_channels: int) -> StyleFeature:
    """The style feature on the grid `extent` of tokens of these scales. ValueError when they do not fit."""
    counts = unpack(tokens, sum(grid.num_tokens for grid in grids), num_channels)
    small = _upsampling_core(tuple(grids), extent) @ _codes(counts, tokens.num_images)
    _, values, directions = torch.linalg.svd(small, full_matrices=False)
    # Of pictures that are each other's negative the mean is nothing: rank 0, and Phi is nothing too.
    rank = int((values > _RANK_TOLERANCE * values[0]).sum())
    return StyleFeature(
        tokens, tuple(grids), extent, values[:rank].float().numpy(), directions[:rank].float().numpy()
    )


def feature_of(style: StyleFeature) -> Tensor:
    """F itself, [channels, H, W] fp32."""
    return _upsampled(style, codes_of(style))


def principal_of(style: StyleFeature, alpha: float) -> Tensor:
    """Phi_alpha(F), [channels, H, W] fp32: the codes are re-weighted, then upsampled, as both are linear."""
    directions = torch.from_numpy(style.directions).double()
    return _upsampled(style, reweighted(codes_of(style), directions.T, alpha))


def agreement(style: StyleFeature) -> float | None:
    """How alike the pictures of a style are: the mean cosine of the codes of two of them; None for one.

    1 for equal pictures, about 0 for unrelated ones, however many they are; each scale counts the same. Four
    pictures of nano's own are at 0.30 to 0.61 when they share a style, and at -0.09 to 0.12 when they share
    none (5 to 95 %).
    """
    num_images = style.num_images
    if num_images == 1:
        return None
    means = _counts(style).astype(float) / num_images * 2 - 1
    total, start = 0.0, 0
    for grid in style.grids:
        rows = means[start : start + grid.num_tokens]
        start += grid.num_tokens
        # Of the n^2 pairs in the square of a mean, n pair a picture with itself: their cosine is 1.
        total += (num_images * float((rows**2).mean()) - 1) / (num_images - 1)
    return total / len(style.grids)


def codes_of(style: StyleFeature) -> Tensor:
    """The mean over the pictures of their codes, [tokens, channels] fp64."""
    return _codes(_counts(style), style.num_images)


def _counts(style: StyleFeature) -> Counts:
    return unpack(style.tokens, style.num_tokens, style.num_channels)


def _codes(counts: Counts, num_images: int) -> Tensor:
    return (torch.from_numpy(counts).double() / num_images * 2 - 1) / counts.shape[1] ** 0.5


def _upsampled(style: StyleFeature, codes: Tensor) -> Tensor:
    """Upsample each scale's rows of codes [tokens, channels] to the extent, and add them up."""
    total = torch.zeros(codes.shape[1], style.extent.height, style.extent.width, dtype=codes.dtype)
    for grid, rows in zip(style.grids, codes.split([grid.num_tokens for grid in style.grids]), strict=True):
        total += resize(rows.T.reshape(1, -1, grid.height, grid.width), style.extent)[0]
    return total.float()


@lru_cache(maxsize=64)  # every schedule of a model, the same at each decomposition
def _upsampling_core(grids: tuple[Scale, ...], extent: Scale) -> Tensor:
    """R [tokens, tokens] of A = Q R, with A [H W, tokens]: what each token becomes on the extent."""
    parts = []
    for grid in grids:
        units = torch.eye(grid.num_tokens, dtype=torch.float64).view(1, -1, grid.height, grid.width)
        parts.append(resize(units, extent)[0].flatten(1).T)
    return torch.linalg.qr(torch.cat(parts, dim=1), mode="r").R
