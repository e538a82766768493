"""`atelier evaluate`: how good the bundled model is, and the paper's protocol and ablations on it.

Everything is decided by the seeds; the same command on the same machine prints the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.analyses import singular_components, swapped_prompts
from service.evaluation.edits import EditScore, EditSetting, evaluate_edits
from service.evaluation.fidelity import Fidelity, evaluate_fidelity
from service.evaluation.intervals import Estimate
from service.evaluation.judge import Judge
from service.evaluation.shortcuts import Trial, choices, evaluate_shortcuts
from service.evaluation.stylisation import (
    Configuration,
    Pair,
    Palettes,
    Score,
    draw,
    evaluate_palettes,
    evaluate_styles,
    held_out_pairs,
    held_out_scenes,
)
from service.model.engine.generator import Generator
from service.model.engine.types import Method
from service.model.infinity.backbone import Infinity
from service.training.recipe import CONFIG

ALPHAS = (0.2, 0.6, 1.0, 2.0, 5.0)  # the paper's table 3
# On nano's 8x8 latent, F_3 is 3x3 and holds no shape; F_5 is 6x6 and does.
SHAPE_STEP = 5
BASE = Configuration()


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All that a run found; tables and plots are made of it."""

    seeds: tuple[int, ...]
    num_pairs: int  # of each seed
    configured: Configuration
    fidelity: Fidelity
    headline: dict[Configuration, Score]  # all pairs, every seed
    ablation: dict[Configuration, Score]  # methods by key step, on the first seed's pairs
    alphas: dict[Configuration, Score]  # PFB+SAC by alpha, at the configured and at the shape step
    swaps: dict[int, tuple[dict[str, Estimate], dict[str, Estimate]]]
    components: dict[int, Score]  # by how many were replaced, at the shape step
    palettes: Palettes  # of style images from outside nano's world
    trials: list[Trial]  # shortcuts, the first of them none
    edits: dict[EditSetting, EditScore]  # of pictures of nano's own world
    examples: list[Pair]
    pictures: dict[Configuration, NDArray[np.uint8]]  # of the examples
    seconds: float


def evaluate(
    generator: Generator,
    judge: Judge,
    *,
    seeds: Sequence[int],
    num_pairs: int,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Evaluation:
    """Draw and judge everything: the main tables on `num_pairs` of each seed, the others on a third of one's.

    ValueError when the model does not draw nano's world: the judge knows no other.
    """
    num_channels = _require_nano(generator)
    began = clock()
    say("prompts")
    worlds = [held_out_scenes(seed, num_pairs) for seed in seeds]
    scenes = [scene for world, _ in worlds for scene in world]
    renders = np.concatenate([drawn for _, drawn in worlds])
    fidelity = evaluate_fidelity(generator, judge, scenes, renders, seeds[0])
    say("styles")
    configured = Configuration(Method.PFB_SAC, generator.key_step, generator.alpha)
    pairs = [pair for seed in seeds for pair in held_out_pairs(seed, num_pairs)]
    headline = evaluate_styles(generator, judge, pairs, [BASE, configured])
    say("ablation")
    some = pairs[: -(-num_pairs // 3)]
    ablation = evaluate_styles(generator, judge, some, ablations(generator))
    alphas = evaluate_styles(generator, judge, some, sweep(generator))
    say("analyses")
    swaps = swapped_prompts(generator, judge, scenes[: -(-num_pairs // 5)], seeds[0])
    components = singular_components(generator, judge, some, SHAPE_STEP, (1, 2, 4, 8, 16, num_channels))
    palettes = evaluate_palettes(generator, -(-num_pairs // 3), seeds[0])
    say("shortcuts")
    trials = evaluate_shortcuts(generator, judge, some, choices(generator))
    say("edits")
    edits = evaluate_edits(generator, judge, pairs[: -(-num_pairs // 5)], seeds[0])
    examples = held_out_pairs(seeds[0] + 1_000, 12)
    shown = [BASE, *(Configuration(method, step, _alpha(method, generator)) for method, step in SHOWN)]
    return Evaluation(
        seeds=tuple(seeds),
        num_pairs=num_pairs,
        configured=configured,
        fidelity=fidelity,
        headline=headline,
        ablation=ablation,
        alphas=alphas,
        swaps=swaps,
        components=components,
        palettes=palettes,
        trials=trials,
        edits=edits,
        examples=examples,
        pictures=draw(generator, examples, shown),
        seconds=clock() - began,
    )


def _require_nano(generator: Generator) -> int:
    """The number of channels of nano's features. ValueError for a model that draws another world."""
    backbone = generator.backbone
    if not isinstance(backbone, Infinity) or backbone.config.grids != CONFIG.grids:
        raise ValueError(
            f"The judge knows only the world of nano, 64x64 pictures of twelve objects; {generator.name} "
            "draws another. Give nano, or a model folder that `python -m service.training.train` wrote."
        )
    return backbone.num_channels


SHOWN = (
    (Method.PFB_SAC, 3),
    (Method.REP, 4),
    (Method.PFB, 4),
    (Method.PFB_SAC, 4),
    (Method.REP, SHAPE_STEP),
    (Method.PFB, SHAPE_STEP),
    (Method.PFB_SAC, SHAPE_STEP),
)


def ablations(generator: Generator) -> list[Configuration]:
    """Every method at the paper's step, at nano's and where the feature holds shape."""
    steps = sorted({3, generator.key_step, SHAPE_STEP})
    methods = (Method.REP, Method.REP_SAC, Method.PFB, Method.PFB_SAC)
    return [BASE] + [
        Configuration(method, step, _alpha(method, generator)) for step in steps for method in methods
    ]


def sweep(generator: Generator) -> list[Configuration]:
    steps = sorted({generator.key_step, SHAPE_STEP})
    return [Configuration(Method.PFB_SAC, step, alpha) for step in steps for alpha in ALPHAS]


def _alpha(method: Method, generator: Generator) -> float | None:
    return None if method.replaces_whole_feature else generator.alpha
