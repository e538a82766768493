"""A style image's tokens, their feature and its decomposition: pure tensor maths, as in the paper.

The accumulated feature after K scales is F_K = sum over k of phi_k(up(codebook[tokens_k])), where
phi_k(h) = (h + conv_k(h) + bias_k) / 2 mixes channels and neighbours. So F is not A C with one basis A for
all channels, as Infinity's is, and no QR of a basis leaves a small core. What holds for any matrix does: with
F as tokens x channels and its thin SVD F = U diag(sigma) V^T,

    Phi_alpha(F) = U diag(exp(-alpha i) sigma_i) V^T = F M,    M = V diag(exp(-alpha i)) V^T,

since F V = U diag(sigma). V are the eigenvectors of F^T F, channels x channels, and sigma^2 its eigenvalues.
M does not change with the sign of a direction, nor, where sigma is 0, with the direction.

Cost at 4,096 tokens of 32 channels, in fp64: 8.4 MFLOP for F^T F, an eigendecomposition of 32 x 32 and 8.4
MFLOP for F M; the convolutions of F itself take 226 MFLOP for three scales. In fp64, as squaring halves the
precision: singular values below 1e-8 of the largest are rounding. F M is `style.feature.principal`.

Each phi_k is affine, and so is F in the codes: the mean feature of several pictures is the feature of their
mean codes. A style of several pictures is Phi of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.model.schedule import Scale
from service.model.style.tokens import StyleTokens
from service.model.switti.tokenizer import Tokenizer, as_planes

# Pictures of one style, of which each has tokens of its own: with more, a code would be too long to be read.
MAX_IMAGES = 100
# A singular value below this share of the largest is rounding, and its vector arbitrary.
_RANK_TOLERANCE = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The spectrum of a feature: singular values, descending, and the rows of V^T that belong to them."""

    singular_values: Tensor  # [rank] fp64
    directions: Tensor  # [rank, channels] fp64


def feature_of(tokenizer: Tokenizer, tokens: Tensor, grids: Sequence[Scale]) -> Tensor:
    """The accumulated feature [channels, H, W] fp64 of a picture's tokens [tokens] over the first scales.

    Of several pictures' tokens [images, tokens] it is their mean feature. `grids` are all of the schedule.
    ValueError when so many tokens are not those of whole scales.
    """
    num_steps = _num_steps(tokens.shape[-1], grids)
    codes = tokenizer.codebook(tokens.reshape(-1, tokens.shape[-1])).double().mean(0, keepdim=True)
    parts = codes.split([grid.num_tokens for grid in grids[:num_steps]], dim=1)
    spread = [
        tokenizer.spread(as_planes(part, grid), step, grids)
        for step, (part, grid) in enumerate(zip(parts, grids, strict=False), start=1)
    ]
    return torch.cat(spread).sum(0)


def spectrum_of(feature: Tensor) -> Spectrum:
    """Singular values and right singular vectors of a feature [channels, H, W] as tokens x channels."""
    matrix = feature.flatten(1).double()  # [channels, tokens]
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)  # ascending
    values = squares.flip(0).clamp_min(0).sqrt()
    rank = int((values > _RANK_TOLERANCE * values[0]).sum())
    return Spectrum(values[:rank], vectors.flip(1)[:, :rank].T.contiguous())


def pack(pictures: NDArray[np.uint16], num_codes: int) -> StyleTokens:
    """Style tokens of pictures' tokens [images, tokens]."""
    return StyleTokens(pack_tokens(pictures, num_codes), len(pictures))


def unpack(tokens: StyleTokens, num_tokens: int, num_codes: int) -> NDArray[np.uint16]:
    """The inverse of `pack`; ValueError when these are not such tokens of so many pictures."""
    if not 1 <= tokens.num_images <= MAX_IMAGES:
        raise ValueError(f"the tokens of {tokens.num_images} pictures cannot be")
    return unpack_tokens(tokens.packed, (tokens.num_images, num_tokens), num_codes)


def combine(tokens: Sequence[StyleTokens], num_tokens: int, num_codes: int) -> StyleTokens:
    """The tokens of all these pictures; ValueError when they are too many, or of another model."""
    num_images = sum(part.num_images for part in tokens)
    if num_images > MAX_IMAGES:
        raise ValueError(f"a style is made of at most {MAX_IMAGES} pictures, not {num_images}")
    return pack(combine_tokens([unpack(part, num_tokens, num_codes) for part in tokens]), num_codes)


def combine_tokens(parts: Sequence[NDArray[np.uint16]]) -> NDArray[np.uint16]:
    """The pictures of all `parts`, each [images, tokens], together: [images, tokens].

    In an order that does not depend on theirs, so that the same pictures are the same style. ValueError when
    they do not have equally many tokens.
    """
    if len({part.shape[1] for part in parts}) != 1:
        raise ValueError("tokens over different scales cannot be combined")
    pictures = np.concatenate(parts)
    return pictures[np.lexsort(pictures.T[::-1])]


def agreement(codebook: Tensor, tokens: Tensor, grids: Sequence[Scale]) -> float | None:
    """How alike several pictures' tokens [images, tokens] are; None for one picture.

    The mean cosine of the codes of two of them, as they differ from the mean code: 1 for equal pictures,
    about 0 for unrelated ones, however many they are. Each scale counts the same.
    """
    num_images, num_tokens = tokens.shape
    if num_images == 1:
        return None
    codes = F.normalize((codebook - codebook.mean(0)).double()[tokens], dim=-1)
    # Of the n^2 pairs in the square of a sum, n pair a picture with itself.
    squares = codes.sum(0).square().sum(-1) - codes.square().sum(-1).sum(0)  # [tokens]
    scales = grids[: _num_steps(num_tokens, grids)]
    of_scales = squares.split([grid.num_tokens for grid in scales])
    means = torch.stack([scale.mean() for scale in of_scales]) / (num_images * (num_images - 1))
    return float(means.mean())


def pack_tokens(tokens: NDArray[np.uint16], num_codes: int) -> bytes:
    """Tokens of any shape in as few bits as a token needs (12 for 4,096 codes), the last byte zero-filled."""
    width = max(1, (num_codes - 1).bit_length())
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint16)
    return np.packbits((tokens.reshape(-1, 1) >> shifts & 1).astype(np.uint8)).tobytes()


def unpack_tokens(packed: bytes, shape: tuple[int, ...], num_codes: int) -> NDArray[np.uint16]:
    """The inverse of `pack_tokens`; ValueError when these bytes are not what it gives for such tokens."""
    width, num_tokens = max(1, (num_codes - 1).bit_length()), int(np.prod(shape))
    if len(packed) != -(-width * num_tokens // 8):
        raise ValueError(f"{len(packed)} bytes are not {num_tokens} tokens of {width} bits")
    bits, rest = np.split(np.unpackbits(np.frombuffer(packed, np.uint8)), [width * num_tokens])
    weights = 1 << np.arange(width - 1, -1, -1)
    tokens = bits.reshape(num_tokens, width) @ weights
    if rest.any() or tokens.max(initial=0) >= num_codes:
        raise ValueError(f"these bytes are not {num_tokens} tokens of {num_codes} codes")
    return tokens.astype(np.uint16).reshape(shape)


def _num_steps(num_tokens: int, grids: Sequence[Scale]) -> int:
    ends = list(accumulate(grid.num_tokens for grid in grids))
    if num_tokens not in ends:
        raise ValueError(f"{num_tokens} tokens are not those of whole scales: {', '.join(map(str, ends))}")
    return ends.index(num_tokens) + 1
