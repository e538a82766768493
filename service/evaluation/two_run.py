"""The plain two-run form of the method, one image at a time: the tests check the engine against it, and
`atelier bench` measures its speed.

The content path runs first and keeps every layer's queries and keys; the generation path then runs from the
first step and uses them. Caches are concatenated, the SVD is the paper's own formula, nothing is shared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from service.evaluation.recording import Recording
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Method
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import InfinityConfig
from service.model.infinity.rope import rotations
from service.model.infinity.sampling import draw_noise, sample_bits
from service.model.infinity.style import feature_of
from service.model.infinity.tokenizer import codes_from_bits
from service.model.infinity.transformer import Block
from service.model.layers import layer_norm, merge_heads, rotate, split_heads
from service.model.schedule import Schedule
from service.model.style.resize import resize


@dataclass
class Trace:
    """What one run produced: its bits, its last feature, and each step's and layer's queries and keys."""

    bits: list[Tensor] = field(default_factory=list)
    feature: Tensor = field(default_factory=lambda: torch.zeros(0))
    queries_keys: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)


def phi(feature: Tensor, alpha: float) -> Tensor:
    u, sigma, vt = torch.linalg.svd(feature.flatten(1).T.double(), full_matrices=False)
    decayed = torch.exp(-alpha * torch.arange(len(sigma), device=sigma.device)) * sigma
    return (u @ torch.diag(decayed) @ vt).T.view_as(feature).float()


@torch.inference_mode()
def draw(model: Infinity, spec: ImageSpec) -> Trace:
    """The content path alone for a plain spec; both paths, one after the other, for a styled one."""
    content = _run(model, spec, None)
    return content if spec.styling is None else _run(model, spec, content)


def _run(model: Infinity, spec: ImageSpec, content: Trace | None) -> Trace:
    schedule = model.schedules[spec.size]
    weight = model.guidance if spec.guidance is None else spec.guidance
    guidance = weight if isinstance(weight, tuple) else (weight,) * len(schedule.scales)
    guidance = spec.shortcuts.shorten(guidance)
    halves = [_Half(model, schedule, text) for text in _texts(model, spec)]
    generator, trace = torch.Generator().manual_seed(spec.seed), Trace()
    grid = schedule.scales[-1]
    feature = torch.zeros(1, model.num_channels, grid.height, grid.width, device=model.device)
    for step, (scale, weight) in enumerate(zip(schedule.scales, guidance, strict=False), start=1):
        pairs = []
        corrects = _corrects(spec, content, model, step)
        for index, half in enumerate(halves):
            pairs.append(half.step(step, feature, trace, index, content, corrects))
        conditional, unconditional = pairs
        logits = weight * conditional + (1 - weight) * unconditional
        noise = draw_noise(generator, scale.num_tokens * model.num_channels).view(scale.num_tokens, -1, 2)
        bits = sample_bits(logits[0], noise.to(model.device), top_k=900, top_p=model.config.sampling.top_p)
        trace.bits.append(bits)
        code = codes_from_bits(bits.T[..., None])[..., 0][None]
        code = code.unflatten(-1, (scale.height, scale.width))
        feature = feature + resize(code, grid)
        if content is not None and step == model.key_step:
            feature = _styled(model, spec, feature[0])[None]
    trace.feature = feature[0]
    return trace


def _corrects(spec: ImageSpec, content: Trace | None, model: Infinity, step: int) -> bool:
    styling = spec.styling
    return (
        content is not None
        and styling is not None
        and styling.method.corrects_attention
        and step > model.key_step
    )


def _styled(model: Infinity, spec: ImageSpec, feature: Tensor) -> Tensor:
    styling = spec.styling
    assert styling is not None
    alpha = model.alpha if styling.alpha is None else styling.alpha
    replaces = styling.method in (Method.REP, Method.REP_SAC)
    parts = []
    for style in styling.styles:
        whole = feature_of(style.feature).to(feature.device)
        parts.append(style.weight * (whole if replaces else phi(whole, alpha)))
    removed = feature if replaces else phi(feature, alpha)
    return feature + styling.strength * (torch.stack(parts).sum(0) - removed)


def _texts(model: Infinity, spec: ImageSpec) -> tuple[Tensor, Tensor]:
    text = model.encode_text(spec.prompt).conditioning
    if spec.negative_prompt:
        return text, model.encode_text(spec.negative_prompt).conditioning
    return text, model.transformer.unconditional_text[: len(text)]


class _Half:
    """One guidance half of one path: a batch of one row."""

    def __init__(self, model: Infinity, schedule: Schedule, text: Tensor) -> None:
        self.model, self.schedule = model, schedule
        weights = model.transformer
        normed = weights.text_norm(text[None])
        self.pooled = weights.pool(normed, torch.ones(1, len(text), dtype=torch.bool, device=model.device))
        self.text = weights.text_in(normed)
        self.rotation = rotations(schedule, model.config.transformer.head_width, model.device)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.done = 0

    def step(
        self,
        step: int,
        feature: Tensor,
        trace: Trace,
        half: int,
        content: Trace | None,
        corrects: bool,
    ) -> Tensor:
        weights, scale = self.model.transformer, self.schedule.scales[step - 1]
        if step == 1:
            x = self.pooled[:, None] + weights.start
        else:
            x = weights.code_in(resize(feature, scale).flatten(2).transpose(1, 2))
        x = x + weights.scale_embedding.weight[step - 1]
        condition = weights.condition(self.pooled)
        rotation = self.rotation[:, self.done : self.done + scale.num_tokens]
        for layer, block in enumerate(weights.blocks):
            assert isinstance(block, Block)
            corrected = content.queries_keys[step * 2 + half, layer] if content and corrects else None
            x, trace.queries_keys[step * 2 + half, layer] = self._block(
                block, layer, x, condition, rotation, corrected
            )
        self.done += scale.num_tokens
        logits = weights.logits(x, weights.head_modulations(self.pooled))
        return logits / self.model.config.sampling.temperature_at(step)

    def _block(
        self,
        block: Block,
        layer: int,
        x: Tensor,
        condition: Tensor,
        rotation: Tensor,
        corrected: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x after one block, and the queries and keys that it attended with: `corrected`, or its own."""
        gate1, gate2, scale1, scale2, shift1, shift2 = (block.modulation + condition).unbind(2)
        h = layer_norm(x) * (1 + scale1) + shift1
        attention = block.attention
        q, k, v = (
            split_heads(part, attention.num_heads) for part in _product(h, attention.qkv.weight).chunk(3, -1)
        )
        q = q + attention.q_bias.view(1, attention.num_heads, 1, -1)
        v = v + attention.v_bias.view(1, attention.num_heads, 1, -1).to(v.dtype)
        q = F.normalize(q.float(), dim=-1) * attention.logit_scale.clamp(max=4.605170186).exp()
        k = F.normalize(k.float(), dim=-1)
        q, k = (rotate(values, rotation).to(v.dtype) for values in (q, k))
        if corrected is not None:
            q, k = corrected
        self.keys[layer] = torch.cat([self.keys[layer], k], 2) if layer in self.keys else k
        self.values[layer] = torch.cat([self.values[layer], v], 2) if layer in self.values else v
        weighted = (q @ self.keys[layer].transpose(-1, -2)).softmax(-1) @ self.values[layer]
        x = x + gate1 * _linear(attention.out, merge_heads(weighted))
        text_attention = block.text_attention
        tk, tv = text_attention.keys_values(self.text)
        tq = split_heads(_linear(text_attention.query, block.text_norm(x)), text_attention.num_heads)
        weighted = (tq @ tk.transpose(-1, -2) * tq.shape[-1] ** -0.5).softmax(-1) @ tv
        x = x + _linear(text_attention.out, merge_heads(weighted))
        hidden = _linear(block.feedforward.up, layer_norm(x) * (1 + scale2) + shift2)
        x = x + gate2 * _linear(block.feedforward.down, F.gelu(hidden, approximate="tanh"))
        return x, (q, k)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return _product(x, layer.weight, layer.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As anybody would write it, without the engine's kernels; in the weight's dtype."""
    return F.linear(x.to(weight.dtype), weight, bias if bias is None else bias.to(weight.dtype))


@dataclass(frozen=True, slots=True, eq=False)
class PlainDrawing:
    """An image of the plain form, and the seconds of its runs, the text included and the decoder not."""

    image: NDArray[np.uint8]  # [height, width, 3]
    draw_seconds: float


@dataclass(frozen=True, slots=True)
class Equality:
    """How far the engine's image of a spec is from the plain form's."""

    num_bits: int
    num_different_bits: int
    largest_difference: int  # of a pixel, out of 255


def has_plain_form(config: InfinityConfig) -> bool:
    """The plain form knows one token a cell and guidance on the logits: not the 8B models."""
    return config.patch == 1 and config.sampling.guidance_layer == 0


def plain_form_of(backbone: object) -> Infinity | None:
    """The model itself where it has a plain form."""
    return backbone if isinstance(backbone, Infinity) and has_plain_form(backbone.config) else None


@torch.inference_mode()
def draw_plainly(infinity: Infinity, spec: ImageSpec) -> PlainDrawing:
    began = time.perf_counter()
    feature = draw(infinity, spec).feature
    if feature.device.type == "cuda":  # the decoder's time is not the runs'
        torch.cuda.synchronize(feature.device)
    seconds = time.perf_counter() - began
    return PlainDrawing(infinity.decode(feature[None]).images()[0], seconds)


def equality(infinity: Infinity, spec: ImageSpec) -> Equality:
    """Draw a stylised image both ways. On the CPU no bit may differ; a GPU's kernels may round otherwise."""
    texts = {
        prompt: infinity.encode_text(prompt).conditioning for prompt in (spec.prompt, spec.negative_prompt)
    }
    recording = Recording.of(infinity, texts)
    Generator(recording).generate([spec])
    trace = draw(infinity, spec)
    ours, plain = recording.path_bits(1, 0), torch.cat(trace.bits)
    image = Generator(infinity).generate([spec])[0].image.astype(int)
    difference = np.abs(image - infinity.decode(trace.feature[None]).images()[0]).max()
    return Equality(plain.numel(), int((ours != plain).sum()), int(difference))
