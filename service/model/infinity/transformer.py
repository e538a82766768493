"""Infinity's transformer: weights and the arithmetic of one layer, with no state of any batch.

Conventions and their source: golden README, 1.2 to 1.7. Shapes use rows, tokens, channels, heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.model.device.linear import Linear, linear
from service.model.device.precision import hold_matrices
from service.model.infinity.config import TransformerConfig
from service.model.layers import Attend, ReadText, RMSNorm, layer_norm, merge_heads, rotate, split_heads
from service.model.schedule import Schedule

_EPSILON = 1e-6


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

    def forward(
        self, x: Tensor, rotation: Tensor, num_own: int, attend: Attend, kept: Tensor | None = None
    ) -> Tensor:
        """x: [rows, tokens, channels]. The first `num_own` rows need queries and keys, the rest values only.

        That is Structural Attention Correction's saving: a corrected row's attention weights are those of
        its content path, so its own queries and keys are never used. With `kept` only those rows go on: no
        other needs values.
        """
        width, weight = x.shape[-1], self.qkv.weight
        x = x.to(weight.dtype)  # once, before rows are taken from it
        zeros = torch.zeros_like(self.q_bias)
        # On a CPU the products of own rows are one; elsewhere joining values would cost two copies of them.
        joins_values = x.device.type != "cpu" or torch.compiler.is_compiling()
        if kept is not None or (joins_values and num_own < len(x)):
            qk = linear(x[:num_own], weight[: 2 * width], torch.cat([self.q_bias, zeros]))
            parts = [linear(x if kept is None else x[kept], weight[2 * width :], self.v_bias)]
        else:
            qkv = linear(x[:num_own], weight, torch.cat([self.q_bias, zeros, self.v_bias]))
            qk, parts = qkv[..., : 2 * width], [qkv[..., 2 * width :]]
            if num_own < len(x):
                parts.append(linear(x[num_own:], weight[2 * width :], self.v_bias))
        # Directions and positions in fp32, as in the reference; what attends is in the weights' dtype again.
        qk = qk.float().unflatten(-1, (2, self.num_heads, -1))  # [own rows, tokens, 2, heads, head width]
        temperature = self.logit_scale.view(-1, 1).clamp(max=math.log(100.0)).exp()
        scale = torch.stack([temperature, torch.ones_like(temperature)])  # [2, heads, 1]
        # Turning keeps lengths, so that normalisation and temperature are one factor.
        factor = scale / torch.linalg.vector_norm(qk, dim=-1, keepdim=True).clamp_min(1e-12)
        q, k = (rotate(qk, rotation[..., None, None, :]) * factor).to(parts[0].dtype).unbind(2)
        return self.out(attend(q, k, [part.unflatten(-1, (self.num_heads, -1)) for part in parts]))


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

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [rows, tokens, channels], read against `keys_values` of one text, or of one for each row.

        `bias` [rows, 1, 1, text tokens] is added to the scores: minus infinity on padding.
        """
        of_rows = (len(x), -1, -1, -1)
        q = split_heads(self.query(x), self.num_heads)
        k, v = keys.expand(of_rows), values.expand(of_rows)
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias)))

    def reader(self, text: Tensor) -> ReadText:
        """`forward` for one text [tokens, channels], with all done in advance that depends on it alone.

        Keys times query weights, and values times output weights, are two matrices of heads x tokens columns:
        for a text of fewer tokens than a head has channels, less work than the two projections. Up to half
        that many it is done: beyond, the matrices are large and save little.
        """
        keys, values = (
            keys_value[0] for keys_value in self.keys_values(text[None])
        )  # [heads, tokens, head width]
        num_heads, num_tokens, head_width = keys.shape
        if 2 * num_tokens > head_width:
            return lambda x: self(x, keys[None], values[None])
        dtype, scale = self.query.weight.dtype, head_width**-0.5
        keys, values = keys.float(), values.float()  # one rounding, not two
        query = self.query.weight.float().view(num_heads, head_width, -1)
        ask = (keys @ query * scale).flatten(0, 1).to(dtype)  # [heads x tokens, channels]
        lean = (keys @ self.query.bias.float().view(num_heads, head_width, 1) * scale).flatten()
        out = self.out.weight.float().view(-1, num_heads, head_width).permute(1, 2, 0)
        answer = (values @ out).flatten(0, 1).T.contiguous().to(dtype)  # [channels, heads x tokens]

        def read(x: Tensor) -> Tensor:
            weights = linear(x, ask, lean).unflatten(-1, (num_heads, num_tokens)).float().softmax(-1)
            return linear(weights.flatten(-2), answer, self.out.bias)

        return read


class FeedForward(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.feedforward_width)
        self.down = Linear(config.feedforward_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(linear(x, self.up.weight, self.up.bias, gelu=True))


class Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 1, 6, config.width))
        self.attention = SelfAttention(config)
        self.text_norm = nn.LayerNorm(config.width, eps=_EPSILON)
        self.text_attention = TextAttention(config)
        self.feedforward = FeedForward(config)

    def modulations(self, condition: Tensor) -> Tensor:
        """Gates, factors and shifts of both branches, [6, rows, 1, channels], of a `condition`."""
        six = (self.modulation + condition).movedim(2, 0)
        return torch.cat([six[:2], 1 + six[2:4], six[4:]])

    def forward(
        self,
        x: Tensor,
        modulations: Tensor,
        rotation: Tensor,
        num_own: int,
        attend: Attend,
        read_text: ReadText,
        kept: Tensor | None = None,
    ) -> Tensor:
        """x: [rows, tokens, channels] -> the same; with `kept`, of those rows alone."""
        gate1, gate2, factor1, factor2, shift1, shift2 = modulations.unbind(0)
        attended = self.attention(
            torch.addcmul(shift1, layer_norm(x), factor1), rotation, num_own, attend, kept
        )
        if kept is not None:
            x, gate1, gate2, factor2, shift2 = (rows[kept] for rows in (x, gate1, gate2, factor2, shift2))
        x = torch.addcmul(x, gate1, attended)
        x = x + read_text(self.text_norm(x))
        return torch.addcmul(x, gate2, self.feedforward(torch.addcmul(shift2, layer_norm(x), factor2)))


class TextPool(nn.Module):
    """Attention of one learned query over a text: the condition of every modulation, and the start token."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        heads = config.num_pool_heads
        self.query = nn.Parameter(torch.randn(1, heads, config.width // heads) * 0.02)
        self.key_value = nn.Linear(config.text_channels, 2 * config.width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.out = Linear(config.width, config.width)

    def forward(self, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """[texts, width] of text [texts, tokens, channels]; mask [texts, tokens] is true on real ones."""
        heads = self.query.shape[1]
        k, v = linear(text, self.key_value.weight, F.pad(self.v_bias, (len(self.v_bias), 0))).chunk(2, dim=-1)
        q = self.query[:, :, None].expand(len(text), -1, -1, -1).to(k.dtype)  # [texts, heads, 1, head width]
        seen = None if mask is None else mask[:, None, None]
        pooled = F.scaled_dot_product_attention(
            q, split_heads(k, heads), split_heads(v, heads), attn_mask=seen
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
        learned = config.num_positions
        self.positions = nn.Parameter(torch.randn(learned, width) * 0.02) if learned else None
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

    def places(self, schedule: Schedule, step: int) -> Tensor:
        """Added to a step's tokens: their scale, [channels]; with learned positions, [tokens, channels]."""
        scale = self.scale_embedding.weight[step - 1]
        if self.positions is None:
            return scale
        start = sum(before.num_tokens for before in schedule.scales[: step - 1])
        return scale + self.positions[start : start + schedule.scales[step - 1].num_tokens]

    def condition(self, pooled: Tensor) -> Tensor:
        """Modulation shared by all blocks, [rows, 1, 6, channels], from the pooled text [rows, channels]."""
        shared: Tensor = self.modulation(F.silu(pooled))
        return shared.view(len(pooled), 1, 6, -1)

    def head_modulations(self, pooled: Tensor) -> Tensor:
        """Factor and shift before the head, [2, rows, 1, channels] fp32."""
        scale, shift = self.head_modulation(F.silu(pooled)).float().view(len(pooled), 1, 2, -1).unbind(2)
        return torch.stack([1 + scale, shift])

    def logits(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Scores of bit 0 and bit 1: [rows, tokens, bits, 2] fp32, from x [rows, tokens, channels]."""
        factor, shift = modulations.unbind(0)
        scores: Tensor = self.head(torch.addcmul(shift, layer_norm(x.float()), factor))
        return scores.unflatten(-1, (-1, 2))
