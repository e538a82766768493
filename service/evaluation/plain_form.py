"""The plain two-run form of the method, one image at a time: the tests check the engine against it, and
`atelier bench` measures its speed.

The content path runs first and keeps every layer's queries and keys; the generation path then runs from the
first step and uses them. Caches are concatenated, the SVD is the paper's own formula, nothing is shared.
What is a backbone's own is in plain_form_infinity.py and plain_form_switti.py.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from service.model.backbone import AnyBackbone
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Method
from service.model.schedule import Schedule

# What every layer of a row attended with at a step, [1, heads, tokens, head width] both.
QueriesKeys = list[tuple[Tensor, Tensor]]
# Codes [1, channels, h, w] of a step, from its guided logits.
Sample = Callable[[Tensor, int], Tensor]
BackboneT = TypeVar("BackboneT", bound=AnyBackbone)


class Half(ABC):
    """One guidance half of one path: a batch of one row, with a cache of its own."""

    def __init__(self, rotation: Tensor) -> None:
        """`rotation` [2, tokens of all steps, head width / 2]."""
        self._rotation = rotation
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._num_done = 0  # tokens

    @abstractmethod
    def step(self, step: int, feature: Tensor, corrected: QueriesKeys | None) -> tuple[Tensor, QueriesKeys]:
        """Logits of a step, and what each layer attended with: `corrected`, or its own."""

    @abstractmethod
    def block(
        self,
        block: nn.Module,
        layer: int,
        x: Tensor,
        rotation: Tensor,
        corrected: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x after one block, and the queries and keys that it attended with: `corrected`, or its own."""

    def through_blocks(
        self, blocks: nn.ModuleList, x: Tensor, corrected: QueriesKeys | None
    ) -> tuple[Tensor, QueriesKeys]:
        """x [1, tokens, channels] of a step after all blocks, and what each attended with."""
        end = self._num_done + x.shape[1]
        rotation, self._num_done = self._rotation[:, self._num_done : end], end
        attended: QueriesKeys = []
        for layer, block in enumerate(blocks):
            given = corrected[layer] if corrected else None
            x, queries_keys = self.block(block, layer, x, rotation, given)
            attended.append(queries_keys)
        return x, attended

    def appended(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer so far, with these."""
        for cache, new in ((self._keys, keys), (self._values, values)):
            cache[layer] = torch.cat([cache[layer], new], 2) if layer in cache else new
        return self._keys[layer], self._values[layer]


@dataclass
class Trace:
    """What one run produced."""

    codes: list[Tensor] = field(default_factory=list)  # of each step, [1, channels, h, w]
    feature: Tensor = field(default_factory=lambda: torch.zeros(0))  # the last, [channels, H, W]
    queries_keys: dict[tuple[int, int], QueriesKeys] = field(default_factory=dict)  # of a step and half


@dataclass(frozen=True, slots=True, eq=False)
class PlainDrawing:
    """An image of the plain form, and the seconds of its runs, the text included and the decoder not."""

    image: NDArray[np.uint8]  # [height, width, 3]
    draw_seconds: float


@dataclass(frozen=True, slots=True)
class Equality:
    """How far the engine's image of a spec is from the plain form's."""

    num_codes: int
    num_different_codes: int
    code: str  # what they are
    largest_difference: int  # of a pixel, out of 255


class PlainForm(ABC, Generic[BackboneT]):
    """The plain form of a backbone, on its weights."""

    code: str  # what is counted where engine and plain form are compared

    def __init__(self, backbone: BackboneT) -> None:
        self.backbone = backbone

    @abstractmethod
    def halves(self, spec: ImageSpec, schedule: Schedule) -> tuple[Half, Half]:
        """The conditional and the unconditional half of a path."""

    @abstractmethod
    def sampler(self, seed: int, schedule: Schedule) -> Sample:
        """Draws the codes of one path, step after step."""

    @abstractmethod
    def empty_feature(self, schedule: Schedule) -> Tensor:
        """[1, channels, H, W]."""

    @abstractmethod
    def spread(self, codes: Tensor, step: int, schedule: Schedule) -> Tensor:
        """What the codes of a step add to the feature, [1, channels, H, W]."""

    @abstractmethod
    def differences(self, codes: Tensor, others: Tensor) -> Tensor:
        """Which codes of a step differ, bool of any shape."""

    @abstractmethod
    def engine_codes(self, spec: ImageSpec) -> list[Tensor]:
        """The codes of every step that the engine draws for a stylised image, [1, channels, h, w]."""

    @torch.inference_mode()
    def draw(self, spec: ImageSpec) -> Trace:
        """The content path alone for a plain spec; both paths, one after the other, for a styled one."""
        spec = spec.posed(self.backbone.vocabulary)
        content = self._run(spec, None)
        return content if spec.styling is None else self._run(spec, content)

    @torch.inference_mode()
    def draw_timed(self, spec: ImageSpec) -> PlainDrawing:
        began = time.perf_counter()
        feature = self.draw(spec).feature
        if feature.device.type == "cuda":  # the decoder's time is not the runs'
            torch.cuda.synchronize(feature.device)
        seconds = time.perf_counter() - began
        return PlainDrawing(self.backbone.decode(feature[None]).images()[0], seconds)

    def equality(self, spec: ImageSpec) -> Equality:
        """Draw a stylised image both ways. On the CPU no code may differ; a GPU's kernels may round."""
        trace = self.draw(spec)
        pairs = zip(self.engine_codes(spec), trace.codes, strict=True)
        differ = torch.cat([self.differences(ours, plain).flatten() for ours, plain in pairs])
        image = Generator(self.backbone).generate([spec])[0].image.astype(int)
        difference = np.abs(image - self.backbone.decode(trace.feature[None]).images()[0]).max()
        return Equality(differ.numel(), int(differ.sum()), self.code, int(difference))

    def _run(self, spec: ImageSpec, content: Trace | None) -> Trace:
        model = self.backbone
        schedule = model.schedules[spec.size]
        halves = self.halves(spec, schedule)
        sample, trace = self.sampler(spec.seed, schedule), Trace()
        feature = self.empty_feature(schedule)
        guidance = self._guidance_of_steps(spec, schedule)
        last_guided = max((step for step, weight in enumerate(guidance, start=1) if weight != 1), default=0)
        for step, weight in enumerate(guidance, start=1):
            corrects = content is not None and _corrects(spec, step, model.key_step)
            logits = []
            for index, half in enumerate(halves if step <= last_guided else halves[:1]):
                corrected = content.queries_keys[step, index] if content and corrects else None
                of_half, trace.queries_keys[step, index] = half.step(step, feature, corrected)
                logits.append(of_half)
            # The last one is the unconditional half, or the conditional one where the weight is 1.
            trace.codes.append(sample(weight * logits[0] + (1 - weight) * logits[-1], step))
            feature = feature + self.spread(trace.codes[-1], step, schedule)
            if content is not None and step == model.key_step:
                feature = self._styled(spec, feature[0])[None]
        trace.feature = feature[0]
        return trace

    def _guidance_of_steps(self, spec: ImageSpec, schedule: Schedule) -> tuple[float, ...]:
        """The weight of the conditional logits at each step that is run."""
        weights = self.backbone.guidance if spec.guidance is None else spec.guidance
        if not isinstance(weights, tuple):
            weights = self.backbone.guidance_of_steps(weights, len(schedule.scales))
        return spec.shortcuts.shorten(weights)

    def _styled(self, spec: ImageSpec, feature: Tensor) -> Tensor:
        styling = spec.styling
        assert styling is not None
        alpha = self.backbone.alpha if styling.alpha is None else styling.alpha
        replaces = styling.method in (Method.REP, Method.REP_SAC)
        parts = []
        for style in styling.styles:
            whole = self.backbone.style_feature(style.feature).to(feature.device)
            parts.append(style.weight * (whole if replaces else phi(whole, alpha)))
        removed = feature if replaces else phi(feature, alpha)
        return feature + styling.strength * (torch.stack(parts).sum(0) - removed)


def phi(feature: Tensor, alpha: float) -> Tensor:
    """Phi_alpha of a feature [channels, H, W], by its full SVD."""
    u, sigma, vt = torch.linalg.svd(feature.flatten(1).T.double(), full_matrices=False)
    decayed = torch.exp(-alpha * torch.arange(len(sigma), device=sigma.device)) * sigma
    return (u @ torch.diag(decayed) @ vt).T.view_as(feature).float()


def plain_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return plain_product(x, layer.weight, layer.bias)


def plain_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As anybody would write it, without the engine's kernels; in the weight's dtype."""
    return F.linear(x.to(weight.dtype), weight, bias if bias is None else bias.to(weight.dtype))


def _corrects(spec: ImageSpec, step: int, key_step: int) -> bool:
    return spec.styling is not None and spec.styling.method.corrects_attention and step > key_step
