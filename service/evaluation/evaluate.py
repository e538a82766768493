"""`atelier evaluate nano`: how good the bundled model is. `paper/` has the paper's tables, on any model.

Everything is decided by the seeds; the same command on the same machine prints the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.edits import EditScore, EditSetting, evaluate_edits
from service.evaluation.fidelity import Fidelity, evaluate_fidelity
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

BASE = Configuration()


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All that a run found; tables and the sheet are made of it."""

    seeds: tuple[int, ...]
    num_pairs: int  # of each seed
    configured: Configuration
    fidelity: Fidelity
    headline: dict[Configuration, Score]  # all pairs, every seed
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
    """Draw and judge everything: the main table on `num_pairs` of each seed, shortcuts on a third of one's.

    ValueError when the model does not draw nano's world: the judge knows no other.
    """
    if not draws_nanos_world(generator):
        raise ValueError(
            f"The judge knows only the world of nano, 64x64 pictures of twelve objects; {generator.name} "
            "draws another. Give nano, or a model folder that `python -m service.training.train` wrote."
        )
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
    some = pairs[: -(-num_pairs // 3)]
    palettes = evaluate_palettes(generator, -(-num_pairs // 3), seeds[0])
    say("shortcuts")
    trials = evaluate_shortcuts(generator, judge, some, choices(generator))
    say("edits")
    edits = evaluate_edits(generator, judge, pairs[: -(-num_pairs // 5)], seeds[0])
    examples = held_out_pairs(seeds[0] + 1_000, 12)
    return Evaluation(
        seeds=tuple(seeds),
        num_pairs=num_pairs,
        configured=configured,
        fidelity=fidelity,
        headline=headline,
        palettes=palettes,
        trials=trials,
        edits=edits,
        examples=examples,
        pictures=draw(generator, examples, [BASE, configured]),
        seconds=clock() - began,
    )


def draws_nanos_world(generator: Generator) -> bool:
    """Whether a model draws what the judge knows: it is nano, or was trained by its recipe."""
    backbone = generator.backbone
    return isinstance(backbone, Infinity) and backbone.config.grids == CONFIG.grids
