"""`atelier evaluate nano`: how good the bundled model is. `paper/` has the paper's tables, on any model.

Everything is decided by the seeds; the same command on the same machine prints the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
    style_pairs,
    things_of,
)
from service.model.engine.generator import Generator
from service.model.engine.types import Method
from service.model.infinity.backbone import Infinity
from service.training.recipe import CONFIG

BASE = Configuration()


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All that a run found; tables and the sheet are made of it."""

    seed: int
    num_images: int  # of captions
    num_pairs: int  # of prompt and style image
    configured: Configuration
    fidelity: Fidelity
    headline: dict[Configuration, Score]  # no style, and the paper's ablation
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
    seed: int,
    num_images: int,
    num_pairs: int,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Evaluation:
    """Draw and judge everything: styles on `num_pairs`, shortcuts and edits on a third of them.

    ValueError when the model does not draw nano's world: the judge knows no other.
    """
    if not draws_nanos_world(generator):
        raise ValueError(
            f"The judge knows only the world of nano, its objects in 64x64 pixels; {generator.name} draws "
            "another. Give nano, or a model folder that `atelier train nano` wrote."
        )
    began = clock()
    say("prompts")
    fidelity = evaluate_fidelity(generator, judge, num_images, seed)
    say("styles")
    key, alpha = generator.key_step, generator.alpha
    configured = Configuration(Method.PFB_SAC, key, alpha)
    ablation = [BASE, Configuration(Method.REP, key), Configuration(Method.PFB, key, alpha), configured]
    pairs = style_pairs(seed, num_pairs, things_of(generator))
    headline = evaluate_styles(generator, judge, pairs, ablation)
    some = pairs[: -(-num_pairs // 3)]
    palettes = evaluate_palettes(generator, len(some), seed)
    say("shortcuts")
    trials = evaluate_shortcuts(generator, judge, some, choices(generator))
    say("edits")
    edits = evaluate_edits(generator, judge, len(some), seed)
    examples = style_pairs(seed + 1_000, 12, things_of(generator))
    return Evaluation(
        seed=seed,
        num_images=num_images,
        num_pairs=num_pairs,
        configured=configured,
        fidelity=fidelity,
        headline=headline,
        palettes=palettes,
        trials=trials,
        edits=edits,
        examples=examples,
        pictures=draw(generator, examples, ablation),
        seconds=clock() - began,
    )


def draws_nanos_world(generator: Generator) -> bool:
    """Whether a model draws what the judge knows: it is nano, or was trained by its recipe."""
    backbone = generator.backbone
    return isinstance(backbone, Infinity) and backbone.config.grids == CONFIG.grids
