"""Infinity's transformer: weights and the arithmetic of one layer, with no state of any batch.

Conventions and their source: golden README, 1.2 to 1.7. Shapes use rows, tokens, channels, heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.model.infinity.config import TransformerConfig
from service.model.infinity.rope import rotate
from service.model.linear import Linear, linear
from service.model.precision import hold_matrices

# attend(queries, keys, values): the first two cover the rows that compute their own attention, the values
# every row. [rows, heads, tokens, head width] each; the result has a line for every row.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
ReadText = Callable[[Tensor], Tensor]  # queries [rows, heads, tokens, head width] -> the same shape

_EPSILON = 1e-6


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=_EPSILON)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # [rows, heads, tokens, head width]


def merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [rows, tokens, channels]


class RMSNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPSILON) * self.weight


class SelfAttention(nn.Module):
    """Cosine attention with a learned temperature per head and rotary positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.logit_scale = nn.Parameter(torch.full((1, config.num_heads, 1, 1), math.log(4.0)))
        self.out = Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor, num_own: int, attend: Attend) -> Tensor:
        """x: [rows, tokens, channels]. The first `num_own` rows need queries and keys, the rest values only.

        That is Structural Attention Correction's saving: a corrected row's attention weights are those of
        its content path (paper, section 4.3), so its own queries and keys are never used.
        """
        width = x.shape[-1]
        own_bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = (
            split_heads(part, self.num_heads)
            for part in linear(x[:num_own], self.qkv.weight, own_bias).chunk(3, dim=-1)
        )
        if num_own < len(x):
            others = linear(x[num_own:], self.qkv.weight[2 * width :], self.v_bias)
            v = torch.cat([v, split_heads(others, self.num_heads)])
        # Directions and positions in fp32, as in the reference; what attends is in the weights' dtype again.
        q = F.normalize(q.float(), dim=-1) * self.logit_scale.clamp(max=math.log(100.0)).exp()
        k = F.normalize(k.float(), dim=-1)
        q, k = (rotate(each, rotation).to(v.dtype) for each in (q, k))
        return self.out(merge_heads(attend(q, k, v)))


class TextAttention(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.out = Linear(config.width, config.width)

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of text tokens [texts, tokens, channels], by heads."""
        k, v = linear(text, self.key_value.weight, F.pad(self.v_bias, (len(self.v_bias), 0))).chunk(2, dim=-1)
        return split_heads(k, self.num_heads), split_heads(v, self.num_heads)

    def forward(self, x: Tensor, read_text: ReadText) -> Tensor:
        return self.out(merge_heads(read_text(split_heads(self.query(x), self.num_heads))))


class FeedForward(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.feedforward_width)
        self.down = Linear(config.feedforward_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 1, 6, config.width))
        self.attention = SelfAttention(config)
        self.text_norm = nn.LayerNorm(config.width, eps=_EPSILON)
        self.text_attention = TextAttention(config)
        self.feedforward = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        rotation: Tensor,
        num_own: int,
        attend: Attend,
        read_text: ReadText,
    ) -> Tensor:
        """x: [rows, tokens, channels]; condition: [rows, 1, 6, channels], shared by all blocks."""
        gate1, gate2, scale1, scale2, shift1, shift2 = (self.modulation + condition).unbind(2)
        x = x + gate1 * self.attention(layer_norm(x) * (1 + scale1) + shift1, rotation, num_own, attend)
        x = x + self.text_attention(self.text_norm(x), read_text)
        return x + gate2 * self.feedforward(layer_norm(x) * (1 + scale2) + shift2)


class TextPool(nn.Module):
    """Attention of one learned query over a text: the condition of every modulation, and the start token."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        heads = config.num_pool_heads
        self.query = nn.Parameter(torch.randn(1, heads, config.width // heads) * 0.02)
        self.key_value = nn.Linear(config.text_channels, 2 * config.width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.out = Linear(config.width, config.width)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """[texts, width] of text [texts, tokens, channels] with mask [texts, tokens], true on real ones."""
        heads = self.query.shape[1]
        k, v = linear(text, self.key_value.weight, F.pad(self.v_bias, (len(self.v_bias), 0))).chunk(2, dim=-1)
        q = self.query[:, :, None].expand(len(text), -1, -1, -1).to(k.dtype)  # [texts, heads, 1, head width]
        pooled = F.scaled_dot_product_attention(
            q, split_heads(k, heads), split_heads(v, heads), attn_mask=mask[:, None, None]
        )
        return self.out(merge_heads(pooled)).squeeze(1).float()


class Transformer(nn.Module):
    def __init__(self, config: TransformerConfig, bits_per_token: int) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.unconditional_text = nn.Parameter(
            torch.randn(config.max_text_tokens, config.text_channels) * 0.02
        )
        self.text_norm = RMSNorm(config.text_channels)
        self.text_in = nn.Sequential(
            Linear(config.text_channels, width), nn.GELU(approximate="tanh"), Linear(width, width)
        )
        self.pool = TextPool(config)
        self.start = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.scale_embedding = nn.Embedding(config.max_scales, width)
        self.code_in = Linear(bits_per_token, width)
        self.modulation = Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_modulation = Linear(width, 2 * width)
        self.head = Linear(width, 2 * bits_per_token)

    def hold_blocks_in(self, dtype: torch.dtype) -> None:
        """Convert the matrices that the reference computes with in half precision, and no others.

        The sums between layers stay fp32, as do modulation, norms and the head (golden README, 1.7).
        """
        hold_matrices(self, dtype, besides=(self.modulation, self.head_modulation, self.head))

    def condition(self, pooled: Tensor) -> Tensor:
        """Modulation shared by all blocks, [rows, 1, 6, channels], from the pooled text [rows, channels]."""
        shared: Tensor = self.modulation(F.silu(pooled))
        return shared.view(len(pooled), 1, 6, -1)

    def logits(self, x: Tensor, pooled: Tensor) -> Tensor:
        """Scores of bit 0 and bit 1: [rows, tokens, bits, 2] fp32, from x [rows, tokens, channels]."""
        scale, shift = self.head_modulation(F.silu(pooled)).float().view(len(pooled), 1, 2, -1).unbind(2)
        scores: Tensor = self.head(layer_norm(x.float()) * (1 + scale) + shift)
        return scores.unflatten(-1, (-1, 2))
