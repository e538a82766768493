"""The plain two-run form of Switti, of both variants."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.evaluation.plain_form import Half, PlainForm, QueriesKeys, Sample, plain_linear, plain_product
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.layers import layer_norm, merge_heads, rotate, split_heads
from service.model.schedule import Schedule
from service.model.style.resize import pool
from service.model.switti.backbone import Cache, Seeds, Switti
from service.model.switti.noise import StepNoise
from service.model.switti.rope import rotations
from service.model.switti.sampling import draw_codes, temperature_at
from service.model.switti.text_encoders import TextFeatures
from service.model.switti.tokenizer import as_planes, as_tokens
from service.model.switti.transformer import Block

# Mixed codes are sums, which round: no two codes of a codebook are as near to one another.
_SAME_CODE = 1e-3


class PlainSwitti(PlainForm[Switti]):
    code = "tokens"

    def halves(self, spec: ImageSpec, schedule: Schedule) -> tuple[_Half, _Half]:
        assert spec.prompt is not None, "the plain form draws prompts"
        prompt, other = self.backbone.encode_texts([spec.prompt, spec.negative_prompt])
        return tuple(_Half(self.backbone, text.conditioning) for text in (prompt, other))  # type: ignore[return-value]

    def sampler(self, seed: int, schedule: Schedule) -> Sample:
        model = self.backbone

        def sample(logits: Tensor, step: int) -> Tensor:
            noise, codebook = StepNoise((seed,), step, model.device), model.tokenizer.codebook.weight
            codes = draw_codes(logits, noise, codebook, model.config.sampling, step, len(model.grids))
            return as_planes(codes, model.grids[step - 1])

        return sample

    def empty_feature(self, schedule: Schedule) -> Tensor:
        model, grid = self.backbone, self.backbone.grids[-1]
        channels = model.config.tokenizer.code_channels
        return torch.zeros(1, channels, grid.height, grid.width, device=model.device)

    def spread(self, codes: Tensor, step: int, schedule: Schedule) -> Tensor:
        return self.backbone.tokenizer.spread(codes, step, self.backbone.grids)

    def engine_codes(self, spec: ImageSpec) -> list[Tensor]:
        recording = _Recording.sharing_weights(self.backbone)
        Generator(recording).generate([spec])
        return recording.codes

    def differences(self, codes: Tensor, others: Tensor) -> Tensor:
        return ((codes - others).abs() > _SAME_CODE).any(1)


class _Recording(Switti):
    """Keeps the codes of the last path: the only one at first, and then the generation path."""

    codes: list[Tensor]  # of each step, [1, channels, h, w]

    @classmethod
    def sharing_weights(cls, switti: Switti) -> _Recording:
        recording = cls(
            switti.config, switti.transformer, switti.tokenizer, switti.text_encoders,
            fingerprint=switti.fingerprint,
        )  # fmt: skip
        recording.codes = []
        return recording

    def sample(self, cache: Cache, logits: Tensor, noise: Seeds, step: int) -> Tensor:
        codes = super().sample(cache, logits, noise, step)
        self.codes.append(codes[-1:])
        return codes


class _Half(Half):
    """One guidance half of one path: a batch of one row."""

    def __init__(self, model: Switti, text: TextFeatures) -> None:
        config = model.config.transformer
        super().__init__(rotations(model.grids, config.head_width, config.rope_extent, model.device))
        self.model = model
        self.states = text.states[None]
        self.condition = model.transformer.condition(text.pooled[None])

    def step(self, step: int, feature: Tensor, corrected: QueriesKeys | None) -> tuple[Tensor, QueriesKeys]:
        weights, grid = self.model.transformer, self.model.grids[step - 1]
        if step == 1:
            x = weights.first_inputs(self.condition)
        else:
            x = weights.inputs(as_tokens(pool(feature, grid)), step)
        x, attended = self.through_blocks(weights.blocks, x, corrected)
        logits = weights.logits(x, weights.head_modulations(self.condition))
        return logits / temperature_at(self.model.config.sampling, step), attended

    def block(
        self,
        block: nn.Module,
        layer: int,
        x: Tensor,
        rotation: Tensor,
        corrected: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        assert isinstance(block, Block)
        crop = self.model.transformer.crop_condition()
        gate1, gate2, factor1, factor2, shift1, shift2 = block.modulations(self.condition, crop)
        num_heads, h = block.attention.num_heads, block.attention_norm(x) * factor1 + shift1
        q, k, v = plain_linear(block.attention.qkv, h).chunk(3, -1)
        q, k = (rotate(split_heads(layer_norm(part), num_heads), rotation).to(v.dtype) for part in (q, k))
        if corrected is not None:
            q, k = corrected
        queries_keys, v = (q, k), split_heads(v, num_heads)
        if self.model.config.transformer.is_causal:
            k, v = self.appended(layer, k, v)
        weighted = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        attended = plain_linear(block.attention.out, merge_heads(weighted)).float()
        x = x + gate1 * block.attention_out_norm(attended)
        x = x + block.text_out_norm(self._read(block, block.text_norm(x)))
        feedforward, h = block.feedforward, block.feedforward_norm(x) * factor2 + shift2
        hidden = F.silu(plain_product(h, feedforward.gate.weight)) * plain_product(h, feedforward.up.weight)
        out = plain_product(hidden, feedforward.down.weight).float()
        return x + gate2 * block.feedforward_out_norm(out), queries_keys

    def _read(self, block: Block, x: Tensor) -> Tensor:
        attention = block.text_attention
        k, v = attention.keys_values(self.states)
        q = split_heads(layer_norm(plain_linear(attention.query, x)).to(v.dtype), attention.num_heads)
        weighted = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return plain_linear(attention.out, merge_heads(weighted)).float()
