"""The plain two-run form of Infinity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.evaluation.plain_form import Half, PlainForm, QueriesKeys, Sample, plain_linear, plain_product
from service.evaluation.recording import Recording
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import InfinityConfig
from service.model.infinity.rope import rotations
from service.model.infinity.sampling import draw_noise, sample_bits
from service.model.infinity.tokenizer import codes_from_bits
from service.model.infinity.transformer import Block
from service.model.layers import layer_norm, merge_heads, rotate, split_heads
from service.model.schedule import Schedule
from service.model.style.resize import resize


def has_plain_form(config: InfinityConfig) -> bool:
    """The plain form knows one token a cell and guidance on the logits: not the 8B models."""
    return config.patch == 1 and config.sampling.guidance_layer == 0


class PlainInfinity(PlainForm[Infinity]):
    code = "bits"

    def halves(self, spec: ImageSpec, schedule: Schedule) -> tuple[_Half, _Half]:
        assert spec.prompt is not None, "the plain form draws prompts"
        model = self.backbone
        text = model.encode_text(spec.prompt).conditioning
        unconditional = model.transformer.unconditional_text[: len(text)]
        if spec.negative_prompt:
            unconditional = model.encode_text(spec.negative_prompt).conditioning
        return _Half(model, schedule, text), _Half(model, schedule, unconditional)

    def sampler(self, seed: int, schedule: Schedule) -> Sample:
        model, generator = self.backbone, torch.Generator().manual_seed(seed)

        def sample(logits: Tensor, step: int) -> Tensor:
            scale = schedule.scales[step - 1]
            noise = draw_noise(generator, scale.num_tokens * model.num_channels)
            noise = noise.view(scale.num_tokens, -1, 2).to(model.device)
            bits = sample_bits(logits[0], noise, top_k=900, top_p=model.config.sampling.top_p)
            code = codes_from_bits(bits.T[..., None])[..., 0][None]
            return code.unflatten(-1, (scale.height, scale.width))

        return sample

    def empty_feature(self, schedule: Schedule) -> Tensor:
        grid, model = schedule.scales[-1], self.backbone
        return torch.zeros(1, model.num_channels, grid.height, grid.width, device=model.device)

    def spread(self, codes: Tensor, step: int, schedule: Schedule) -> Tensor:
        return resize(codes, schedule.scales[-1])

    def engine_codes(self, spec: ImageSpec) -> list[Tensor]:
        model = self.backbone
        spec = spec.posed(model.vocabulary)
        prompts = (spec.prompt or "", spec.negative_prompt)
        texts = {text: model.encode_text(text).conditioning for text in prompts}
        recording = Recording.of(model, texts)
        Generator(recording).generate([spec])
        return [bits[-1] for bits in recording.bits]  # before it forked, the only path

    def differences(self, codes: Tensor, others: Tensor) -> Tensor:
        return codes != bits_of(others)


def bits_of(codes: Tensor) -> Tensor:
    """Bits [tokens, bits] of the codes [1, bits, h, w] of a step."""
    return (codes[0] > 0).flatten(1).T


class _Half(Half):
    """One guidance half of one path: a batch of one row."""

    def __init__(self, model: Infinity, schedule: Schedule, text: Tensor) -> None:
        super().__init__(rotations(schedule, model.config.transformer.head_width, model.device))
        self.model, self.schedule = model, schedule
        weights = model.transformer
        normed = weights.text_norm(text[None])
        self.pooled = weights.pool(normed, torch.ones(1, len(text), dtype=torch.bool, device=model.device))
        self.text = weights.text_in(normed)

    def step(self, step: int, feature: Tensor, corrected: QueriesKeys | None) -> tuple[Tensor, QueriesKeys]:
        weights, scale = self.model.transformer, self.schedule.scales[step - 1]
        if step == 1:
            x = self.pooled[:, None] + weights.start
        else:
            x = weights.code_in(resize(feature, scale).flatten(2).transpose(1, 2))
        x = x + weights.places(self.schedule, step)
        self.condition = weights.condition(self.pooled)
        x, attended = self.through_blocks(weights.blocks, x, corrected)
        logits = weights.logits(x, weights.head_modulations(self.pooled))
        return logits / self.model.config.sampling.temperature_at(step), attended

    def block(
        self,
        block: nn.Module,
        layer: int,
        x: Tensor,
        rotation: Tensor,
        corrected: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        assert isinstance(block, Block)
        gate1, gate2, scale1, scale2, shift1, shift2 = (block.modulation + self.condition).unbind(2)
        h = layer_norm(x) * (1 + scale1) + shift1
        attention = block.attention
        q, k, v = (
            split_heads(part, attention.num_heads)
            for part in plain_product(h, attention.qkv.weight).chunk(3, -1)
        )
        q = q + attention.q_bias.view(1, attention.num_heads, 1, -1)
        v = v + attention.v_bias.view(1, attention.num_heads, 1, -1).to(v.dtype)
        q = F.normalize(q.float(), dim=-1) * attention.logit_scale.clamp(max=4.605170186).exp()
        k = F.normalize(k.float(), dim=-1)
        q, k = (rotate(values, rotation).to(v.dtype) for values in (q, k))
        if corrected is not None:
            q, k = corrected
        queries_keys = (q, k)
        k, v = self.appended(layer, k, v)
        weighted = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + gate1 * plain_linear(attention.out, merge_heads(weighted))
        text_attention = block.text_attention
        tk, tv = text_attention.keys_values(self.text)
        tq = split_heads(plain_linear(text_attention.query, block.text_norm(x)), text_attention.num_heads)
        weighted = (tq @ tk.transpose(-1, -2) * tq.shape[-1] ** -0.5).softmax(-1) @ tv
        x = x + plain_linear(text_attention.out, merge_heads(weighted))
        hidden = plain_linear(block.feedforward.up, layer_norm(x) * (1 + scale2) + shift2)
        x = x + gate2 * plain_linear(block.feedforward.down, F.gelu(hidden, approximate="tanh"))
        return x, queries_keys
