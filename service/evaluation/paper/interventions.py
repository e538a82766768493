"""The loop over scales with a hand in it: what the paper's analyses and rival methods change on the way.

For evaluation alone. The engine's own loop has no such hooks, and draws all that the service offers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model.attention import StepAttention
from service.model.backbone import AnyBackbone
from service.model.block_runner import Block, run_block
from service.model.device.transfer import index_tensor
from service.model.engine.text_style import require_finite
from service.model.engine.types import Path
from service.model.infinity.backbone import Infinity
from service.model.schedule import Size
from service.model.style.blending import PathStyle, directions_of
from service.model.switti.backbone import Switti
from service.model.text_layers import LayerTexts


class Intervention:
    """Hooks of the loop. By default none changes anything: the plain images."""

    def before(self, cache: Any, step: int) -> None:
        """Before a step is predicted; the batch's cache is at hand."""

    def after(self, features: Tensor, step: int) -> Tensor:
        """The accumulated features [paths, channels, H, W] after a step, to go on with."""
        return features

    def attention(self, attention: StepAttention, step: int) -> StepAttention:
        """How a layer's rows attend at a step: rows are the paths' conditional halves, then the others."""
        return attention


NOTHING = Intervention()


@torch.inference_mode()
def intervened(
    backbone: AnyBackbone,
    size: Size,
    prompts: Sequence[str],
    seeds: Sequence[int],
    intervention: Intervention = NOTHING,
) -> Tensor:
    """F_S [paths, channels, H, W] of one content path for each prompt and seed, none forked from another."""
    backbone = _watched(backbone, intervention)
    schedule = backbone.schedules[size]
    num_steps = len(schedule.scales)
    paths = paths_of(backbone, posed(backbone, prompts, seeds), num_steps)
    cache = backbone.begin(paths, schedule, num_steps)
    noise = backbone.noise(seeds, schedule, num_steps)
    features = backbone.empty_features(cache)
    for step in range(1, num_steps + 1):
        intervention.before(cache, step)
        _now_at(backbone, step)
        codes = backbone.sample(cache, backbone.predict(cache, features, step), noise, step)
        features = intervention.after(backbone.accumulate(cache, features, codes, step), step)
    require_finite(cache.is_finite)
    return features


def images_of(backbone: AnyBackbone, features: Tensor) -> list[NDArray[np.uint8]]:
    with torch.inference_mode():
        return list(backbone.decode(features).images())


def posed(backbone: AnyBackbone, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[str]:
    """The prompts as the Generator has them drawn: each with its seed's pose."""
    if backbone.vocabulary is None:
        return prompts
    return [backbone.vocabulary.posed(*each) for each in zip(prompts, seeds, strict=True)]


def paths_of(backbone: AnyBackbone, prompts: Sequence[str], num_steps: int) -> list[Path]:
    guidance = backbone.guidance_of_steps(backbone.guidance, num_steps)
    distinct = list(dict.fromkeys(prompts))
    texts = dict(zip(distinct, backbone.encode_texts(distinct), strict=True))
    return [Path(texts[prompt], None, guidance) for prompt in prompts]


class _Watch:
    """Runs blocks with an attention that the intervention was shown first."""

    def __init__(self, intervention: Intervention) -> None:
        self.intervention, self.step = intervention, 0

    def __call__(
        self, block: Block, x: Tensor, modulations: Tensor, rotation: Tensor, num_own: int,
        attention: StepAttention, texts: LayerTexts,
    ) -> Tensor:  # fmt: skip
        shown = self.intervention.attention(attention, self.step)
        return run_block(block, x, modulations, rotation, num_own, shown, texts)


def _watched(backbone: AnyBackbone, intervention: Intervention) -> AnyBackbone:
    """The same weights under another backbone, whose layers attend as the intervention says."""
    if type(intervention).attention is Intervention.attention:
        return backbone
    if not isinstance(backbone, Infinity | Switti):
        raise ValueError(f"{backbone.name}'s attention cannot be changed: only Infinity's and Switti's can.")
    shared = copy.copy(backbone)
    shared._run_block = _Watch(intervention)
    return shared


def _now_at(backbone: AnyBackbone, step: int) -> None:
    watch = getattr(backbone, "_run_block", None)
    if isinstance(watch, _Watch):
        watch.step = step


class ExchangedComponents(Intervention):
    """The k largest singular components of F at the key step, replaced by the style's (section 4.2.3)."""

    def __init__(self, styles: Tensor, key_step: int, count: int) -> None:
        """`styles`: F of each path's style [paths, channels, H, W]."""
        self.styles, self.key_step, self.count = styles, key_step, count

    def after(self, features: Tensor, step: int) -> Tensor:
        if step != self.key_step:
            return features
        pairs = zip(features, self.styles, strict=True)
        return torch.stack(
            [own - largest(own, self.count) + largest(style, self.count) for own, style in pairs]
        )


def largest(feature: Tensor, count: int) -> Tensor:
    """The part of a feature [channels, H, W] in its `count` largest singular components."""
    u, values, directions = torch.linalg.svd(feature.flatten(1).double(), full_matrices=False)
    return ((u[:, :count] * values[:count]) @ directions[:count]).view_as(feature).float()


class SwappedPrompt(Intervention):
    """Another prompt at one step only (section 4.2.2); keys and values of the other steps stay."""

    def __init__(self, backbone: AnyBackbone, size: Size, swapped: Sequence[str], at: int) -> None:
        schedule = backbone.schedules[size]
        # Of this cache only the texts are used: room for one step is enough.
        paths = paths_of(backbone, swapped, len(schedule.scales))
        self._at, self._other = at, backbone.begin(paths, schedule, 1).active
        self._own: Any = None

    def before(self, cache: Any, step: int) -> None:
        if step == self._at:
            self._own, cache.active = cache.active, self._other
        elif step == self._at + 1:
            cache.active = self._own


class Blended(Intervention):
    """Principal Feature Blending at the key step, of every path with its own style."""

    def __init__(self, styles: Sequence[PathStyle], key_step: int) -> None:
        self.styles, self.key_step = styles, key_step

    def after(self, features: Tensor, step: int) -> Tensor:
        if step != self.key_step:
            return features
        parts = zip(self.styles, features, directions_of(features), strict=True)
        return torch.stack([style.blended(own, directions) for style, own, directions in parts])


class CorrectedSteps(Intervention):
    """Blending at the key step, and attention corrected at chosen steps only.

    The first half of the paths are content paths, the second half the generation paths of the same prompts
    and seeds, which compute queries and keys of their own so that a step can also go without correction.
    """

    def __init__(self, blended: Blended, steps: frozenset[int]) -> None:
        """`blended` is shown the generation paths' features alone."""
        self._blended, self._steps = blended, steps

    def after(self, features: Tensor, step: int) -> Tensor:
        content, generated = features.chunk(2)
        return torch.cat([content, self._blended.after(generated, step)])

    def attention(self, attention: StepAttention, step: int) -> StepAttention:
        if step not in self._steps:
            return attention
        styles = self._blended.styles
        sources = rows_of_first_half(len(attention.sources), 2 * len(styles))
        source_rows = index_tensor(sources, styles[0].feature.device)
        return replace(attention, sources=sources, source_rows=source_rows)


def rows_of_first_half(num_rows: int, num_paths: int) -> tuple[int, ...]:
    """For each row of the second half's paths the row of its fellow in the first, of one guidance half.

    Rows of the first half's paths are their own. Rows come as `lay_out_rows` orders those of content paths.
    """
    half = num_paths // 2
    return tuple(row - half if row % num_paths >= half else row for row in range(num_rows))


@dataclass(frozen=True, slots=True)
class SharedValues(StepAttention):
    """Values of some rows moved towards those of other rows, before they are kept and attended to."""

    towards: tuple[int, ...] = ()  # for each row, the row whose values it takes a share of
    share: float = 0.0

    def attend(self, queries: Tensor, keys: Tensor, values: Sequence[Tensor]) -> Tensor:
        (own,) = values  # of content paths, all rows are in one part
        mixed = torch.lerp(own, own[list(self.towards)], self.share)
        return StepAttention.attend(self, queries, keys, [mixed])
