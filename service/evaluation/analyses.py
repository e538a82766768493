"""The analyses that the paper rests on: which step decides what, and what F_s's singular components carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.evaluation.intervals import Estimate, share
from service.evaluation.judge import ATTRIBUTES, Judge
from service.evaluation.stylisation import Pair, Score, chunks, score
from service.model.engine.generator import Generator
from service.model.engine.types import Path
from service.model.infinity.backbone import Infinity
from service.model.infinity.style import feature_of
from service.training.captions import full_caption
from service.training.scene import Scene, random_scene

_BATCH = 16
_Swap = dict[int, tuple[dict[str, Estimate], dict[str, Estimate]]]


@torch.inference_mode()
def swapped_prompts(generator: Generator, judge: Judge, scenes: Sequence[Scene], seed: int) -> _Swap:
    """Another prompt at one step only (paper, section 4.2.2).

    For each step, 0 for none: how often each attribute is still the prompt's, and how often the other's.
    """
    rng = np.random.default_rng([74, seed])
    others = [_unlike(scene, rng) for scene in scenes]
    work = [
        (full_caption(scene), full_caption(other), seed + index)
        for index, (scene, other) in enumerate(zip(scenes, others, strict=True))
    ]
    found: _Swap = {}
    for step in range(generator.num_steps(generator.default_size) + 1):
        parts = []
        for batch in chunks(work, _BATCH):
            prompts, swapped, seeds = zip(*batch, strict=True)
            parts.append(_drawn(generator, prompts, seeds, swapped=swapped, swap_step=step))
        verdict = judge.judge(np.concatenate(parts))
        found[step] = (
            {name: share(verdict.agrees(name, list(scenes))) for name in ATTRIBUTES},
            {name: share(verdict.agrees(name, others)) for name in ATTRIBUTES},
        )
    return found


@torch.inference_mode()
def singular_components(
    generator: Generator, judge: Judge, pairs: Sequence[Pair], key_step: int, counts: Sequence[int]
) -> dict[int, Score]:
    """The k largest singular components of F_gen replaced by those of F_style (paper, section 4.2.3)."""
    size = generator.default_size
    styles = [feature_of(generator.extract_style(pair.picture, size, key_step)) for pair in pairs]
    found = {}
    for count in counts:
        parts = []
        for batch in chunks(range(len(pairs)), _BATCH):

            def exchange(features: Tensor, batch: Sequence[int] = batch, count: int = count) -> Tensor:
                own = [feature - largest(feature, count) for feature in features]
                return torch.stack([a + largest(styles[i], count) for a, i in zip(own, batch, strict=True)])

            prompts, seeds = [pairs[i].prompt for i in batch], [pairs[i].seed for i in batch]
            parts.append(_drawn(generator, prompts, seeds, exchange=exchange, key_step=key_step))
        pictures = np.concatenate(parts)
        found[count] = score(judge.judge(pictures), pictures, pairs)
    return found


def largest(feature: Tensor, count: int) -> Tensor:
    """The part of a feature [channels, H, W] in its `count` largest singular components."""
    u, values, directions = torch.linalg.svd(feature.flatten(1).double(), full_matrices=False)
    return ((u[:, :count] * values[:count]) @ directions[:count]).view_as(feature).float()


def _drawn(
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    swapped: Sequence[str] = (),
    swap_step: int = 0,
    exchange: Callable[[Tensor], Tensor] | None = None,
    key_step: int = 0,
) -> NDArray[np.uint8]:
    """Plain images, but step `swap_step` reads `swapped`, and F after `key_step` is `exchange`d."""
    backbone = generator.backbone
    assert isinstance(backbone, Infinity)
    schedule = backbone.schedules[generator.default_size]
    num_steps = len(schedule.scales)

    def paths(texts: Sequence[str]) -> list[Path]:
        guidance = backbone.guidance_of_steps(generator.guidance, num_steps)
        return [Path(backbone.encode_text(text), None, guidance) for text in texts]

    cache = backbone.begin(paths(prompts), schedule, num_steps)
    noise = backbone.noise(seeds, schedule, num_steps)
    own = cache.active
    if swap_step:
        other = backbone.begin(paths(swapped), schedule, num_steps)
    features = backbone.empty_features(cache)
    for step in range(1, num_steps + 1):
        # The keys and values of the steps before stay: only what this step reads of a prompt changes.
        cache.active = other.active if step == swap_step else own
        codes = backbone.sample(cache, backbone.predict(cache, features, step), noise, step)
        features = backbone.accumulate(cache, features, codes, step)
        if exchange is not None and step == key_step:
            features = exchange(features)
    return backbone.decode(features).images()


def _unlike(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene that shares no word with `scene`."""
    while True:
        other = random_scene(rng)
        if all(getattr(other, name) != getattr(scene, name) for name in ATTRIBUTES):
            return other
