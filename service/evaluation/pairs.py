"""What is drawn and judged: prompts and references, decided by a seed and unseen in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.training.renderer import render
from service.training.scene import OBJECTS, Scene, random_scene

# Apart from every stream of the training: those begin with the recipe's seed.
_SCENES, _PAIRS = 71, 72


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt that names an object only, and a reference picture that shows another object."""

    object: str
    reference: Scene
    picture: NDArray[np.uint8]  # [64, 64, 3], the reference rendered
    seed: int

    @property
    def prompt(self) -> str:
        return f"{'an' if self.object[0] in 'aeiou' else 'a'} {self.object}"


def held_out_scenes(seed: int, num: int) -> tuple[list[Scene], NDArray[np.uint8]]:
    """Scenes and their renders [num, 64, 64, 3]."""
    rng = np.random.default_rng([_SCENES, seed])
    scenes = [random_scene(rng) for _ in range(num)]
    return scenes, np.stack([render(scene, rng) for scene in scenes])


def held_out_pairs(seed: int, num: int) -> list[Pair]:
    rng = np.random.default_rng([_PAIRS, seed])
    pairs = []
    for _ in range(num):
        reference = random_scene(rng)
        others = [name for name in OBJECTS if name != reference.object]
        chosen = others[rng.integers(len(others))]
        pairs.append(Pair(chosen, reference, render(reference, rng), int(rng.integers(2**32))))
    return pairs
