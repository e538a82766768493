"""Pieces of a transformer layer that the backbones share. Shapes use rows, tokens, channels, heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# attend(queries, keys, values): the first two of the rows that compute their own attention, [rows, tokens,
# heads, head width]; the values in parts that make up every row. The result is [rows, tokens, channels].
Attend = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]
ReadText = Callable[[Tensor], Tensor]  # normed tokens [rows, tokens, channels] -> what the text adds to them
_EPSILON = 1e-6


def layer_norm(x: Tensor) -> Tensor:
    """Over all channels, without weights, in fp32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=_EPSILON)


class RMSNorm(nn.Module):
    """Over all channels, in fp32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPSILON) * self.weight


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # [rows, heads, tokens, head width]


def merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [rows, tokens, channels]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn neighbouring channel pairs by their token's angles.

    x: [..., head_width], of a shape with which `rotation` [2, tokens, ..., head_width / 2] broadcasts.
    """
    pairs = x.unflatten(-1, (-1, 2))
    cos, sin = rotation.unbind(0)  # [tokens, ..., head_width / 2]
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        # One complex product: a third of the time of four real ones and a stack, which a compiler makes one.
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin)).flatten(-2)
    # Pairs are exchanged by indexing, which a compiler does for nothing; stacking would write them in fp32.
    exchanged = pairs.flip(-1) * torch.stack([-sin, sin], dim=-1)
    return (pairs * cos[..., None] + exchanged).flatten(-2)
