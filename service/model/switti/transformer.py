"""Switti's transformer: weights and the arithmetic of one layer, with no state of any batch.

Conventions and their source: golden README, 6. Shapes use rows, tokens, channels, heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.model.device.linear import Linear, linear
from service.model.device.precision import hold_matrices
from service.model.layers import Attend, ReadText, RMSNorm, layer_norm, merge_heads, rotate, split_heads
from service.model.switti.by_row import by_row
from service.model.switti.config import TokenizerConfig, TransformerConfig

# What the transformer is told of an image's crop: height and width of the whole, and the upper left corner.
# The reference scales the shorter side to 512 whatever the size drawn, so that every square image has these.
_CROP = (512, 512, 0, 0)


class SelfAttention(nn.Module):
    """Attention with rotary positions; queries and keys are layer-normed over all heads together."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = Linear(config.width, config.width)

    def forward(
        self, x: Tensor, rotation: Tensor, num_own: int, attend: Attend, kept: Tensor | None = None
    ) -> Tensor:
        """x: [rows, tokens, channels]. The first `num_own` rows need queries and keys, the rest values only.

        That is Structural Attention Correction's saving: a corrected row uses its content row's queries and
        keys, so its own are never computed. With `kept` only those rows are computed further: no other
        needs values. The result is fp32.
        """
        width, weight, bias = x.shape[-1], self.qkv.weight, self.qkv.bias
        if kept is not None:
            qk = linear(x[:num_own], weight[: 2 * width], bias[: 2 * width])
            parts = [linear(x[kept], weight[2 * width :], bias[2 * width :])]
        else:
            qkv = linear(x[:num_own], weight, bias)
            qk, parts = qkv[..., : 2 * width], [qkv[..., 2 * width :]]
            if num_own < len(x):
                parts.append(linear(x[num_own:], weight[2 * width :], bias[2 * width :]))
        # Norms and positions in fp32; what attends is in the weights' dtype again.
        qk = layer_norm(qk.unflatten(-1, (2, -1))).unflatten(-1, (self.num_heads, -1))
        q, k = rotate(qk, rotation[..., None, None, :]).unbind(2)  # [own rows, tokens, heads, head width]
        q = q / math.sqrt(q.shape[-1])
        dtype = parts[0].dtype
        attended = attend(
            q.to(dtype), k.to(dtype), [part.unflatten(-1, (self.num_heads, -1)) for part in parts]
        )
        return self.out(attended).float()


class TextAttention(nn.Module):
    """Attention to the two text encoders' hidden states, without positions; each row has its own text."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = RMSNorm(config.text_channels)
        self.query = Linear(config.width, config.width)
        self.key_value = Linear(config.text_channels, 2 * config.width)
        self.out = Linear(config.width, config.width)

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """[texts, heads, tokens, head width], of text states [texts, tokens, text channels]."""
        k, v = self.key_value(self.norm(text)).chunk(2, dim=-1)
        return split_heads(layer_norm(k).to(v.dtype), self.num_heads), split_heads(v, self.num_heads)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [rows, tokens, channels], read against `keys_values` of one text, or of one for each row.

        `bias` [rows, 1, 1, text tokens] is added to the scores: minus infinity on padding. The result is
        fp32.
        """
        of_rows = (len(x), -1, -1, -1)
        q = split_heads(layer_norm(self.query(x)).to(keys.dtype), self.num_heads)
        read = F.scaled_dot_product_attention(q, keys.expand(of_rows), values.expand(of_rows), attn_mask=bias)
        return self.out(merge_heads(read)).float()

    def reader(self, text: Tensor) -> ReadText:
        """`forward` for one text [tokens, text channels]."""
        keys, values = self.keys_values(text[None])
        return lambda x: self(x, keys, values)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.feedforward_width, bias=False)
        self.up = Linear(config.width, config.feedforward_width, bias=False)
        self.down = Linear(config.feedforward_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(by_row(F.silu, self.gate(x)) * self.up(x)).float()


class Block(nn.Module):
    """Self-attention, text attention and feed-forward, each between two norms."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.crop_scale = nn.Parameter(torch.zeros(1, width))
        self.modulation = Linear(width, 6 * width)
        self.attention_norm = RMSNorm(width)
        self.attention = SelfAttention(config)
        self.attention_out_norm = RMSNorm(width)
        self.text_norm = RMSNorm(width)
        self.text_attention = TextAttention(config)
        self.text_out_norm = RMSNorm(width)
        self.feedforward_norm = RMSNorm(width)
        self.feedforward = FeedForward(config)
        self.feedforward_out_norm = RMSNorm(width)

    def modulations(self, condition: Tensor, crop: Tensor) -> Tensor:
        """Gates, factors and shifts of both branches, [6, texts, 1, channels] fp32.

        Of `Transformer.condition` [texts, channels] and `Transformer.crop_condition` [1, channels].
        """
        modulation = self.modulation(by_row(F.silu, condition + self.crop_scale * crop)).float()
        gates, scales, shifts = modulation.view(len(condition), 1, 3, 2, -1).movedim((2, 3), (0, 1))
        return torch.cat([gates, 1 + scales, shifts])

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
        """x: [rows, tokens, channels] fp32 -> the same; with `kept`, of those rows alone.

        `modulations` [6, rows, 1, channels]; `rotation` [2, tokens, head width / 2].
        """
        gate1, gate2, factor1, factor2, shift1, shift2 = modulations.unbind(0)
        modulated = torch.addcmul(shift1, self.attention_norm(x), factor1)
        attended = self.attention(modulated, rotation, num_own, attend, kept)
        if kept is not None:
            x, gate1, gate2, factor2, shift2 = (rows[kept] for rows in (x, gate1, gate2, factor2, shift2))
        x = torch.addcmul(x, gate1, self.attention_out_norm(attended))
        x = x + self.text_out_norm(read_text(self.text_norm(x)))
        modulated = torch.addcmul(shift2, self.feedforward_norm(x), factor2)
        return torch.addcmul(x, gate2, self.feedforward_out_norm(self.feedforward(modulated)))


class Transformer(nn.Module):
    def __init__(self, config: TransformerConfig, tokenizer: TokenizerConfig, num_scales: int) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.start = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.scale_embedding = nn.Embedding(num_scales, width)
        self.code_in = Linear(tokenizer.code_channels, width)
        self.pool = Linear(config.pooled_channels, width)
        self.crop_frequencies = nn.Parameter(torch.randn(width // 8))
        self.crop_out = Linear(width, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_modulation = Linear(width, 2 * width)
        self.head = Linear(width, tokenizer.num_codes)

    def hold_blocks_in(self, dtype: torch.dtype) -> None:
        """Convert the matrices of the blocks, in which the reference was trained under autocast.

        What the reference computes outside of it stays fp32: the pooled text, the codes' way in and the head,
        as do norms and the sums between layers.
        """
        besides = (self.pool, self.code_in, self.crop_out, self.head_modulation, self.head)
        hold_matrices(self, dtype, besides=besides)

    def condition(self, pooled: Tensor) -> Tensor:
        """[texts, channels] of pooled texts [texts, pooled channels]."""
        condition: Tensor = self.pool(pooled)
        return condition

    def crop_condition(self) -> Tensor:
        """[1, channels]: the same for every image, as all are square."""
        crop = torch.tensor(_CROP, device=self.crop_frequencies.device)
        # Phases are thousands of radians: in fp32 another order of the products gives other sines.
        phases = crop[:, None] * self.crop_frequencies[None] * 2 * math.pi
        embedded = torch.cat([phases.sin(), phases.cos()], dim=-1)  # [4, channels / 4]
        condition: Tensor = self.crop_out(embedded.view(1, -1))
        return condition

    def first_inputs(self, condition: Tensor) -> Tensor:
        """Of the first step: [texts, 1, channels] of `condition` [texts, channels]."""
        return condition[:, None] + self.start + self.scale_embedding.weight[0]

    def inputs(self, tokens: Tensor, step: int) -> Tensor:
        """Of a step from 2 on: [paths, tokens, channels], of `tokens` [paths, tokens, code channels]."""
        return self.code_in(tokens) + self.scale_embedding.weight[step - 1]

    def head_modulations(self, condition: Tensor) -> Tensor:
        """Factor and shift before the head, [2, texts, 1, channels] fp32; the crop has no part in them."""
        scale, shift = (
            self.head_modulation(by_row(F.silu, condition)).view(len(condition), 1, 2, -1).unbind(2)
        )
        return torch.stack([1 + scale, shift])

    def logits(self, x: Tensor, modulations: Tensor) -> Tensor:
        """Scores of every code, [rows, tokens, codes] fp32, from x [rows, tokens, channels]."""
        factor, shift = modulations.unbind(0)
        scores: Tensor = self.head(torch.addcmul(shift, layer_norm(x), factor))
        return scores
