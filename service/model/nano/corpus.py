"""The pictures of a run: rendered scenes, and some from outside their world. Made once, memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.model.nano.outside import outside_picture
from service.model.nano.renderer import render
from service.model.nano.scene import Scene, random_scene

Pictures = NDArray[np.uint8]  # [pictures, 64, 64, 3], RGB

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Corpus:
    renders: Pictures
    scenes: list[Scene]  # of each render
    outside: Pictures


def make_corpus(folder: Path, seed: int, num_images: int, num_outside: int) -> Corpus:
    """Made by all cores, unless the folder has it already."""
    renders, outside, scenes = folder / "renders.npy", folder / "outside.npy", folder / "scenes.json"
    if not scenes.exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            np.save(outside, np.concatenate(_parts(pool, _outside_chunk, seed, num_outside)))
            parts = _parts(pool, _render_chunk, seed, num_images)
        np.save(renders, np.concatenate([part[0] for part in parts]))
        scenes.write_text(json.dumps([asdict(scene) for part in parts for scene in part[1]]))
    return Corpus(
        np.load(renders, mmap_mode="r"),
        [Scene(**each) for each in json.loads(scenes.read_text())],
        np.load(outside, mmap_mode="r"),
    )


def _parts(pool: ProcessPoolExecutor, work: Callable[..., Any], seed: int, total: int) -> list[Any]:
    starts = range(0, total, _CHUNK)
    return list(pool.map(work, [(seed, start, min(_CHUNK, total - start)) for start in starts]))


def _render_chunk(task: tuple[int, int, int]) -> tuple[Pictures, list[Scene]]:
    seed, start, length = task
    rng = np.random.default_rng([seed, start])
    scenes = [random_scene(rng) for _ in range(length)]
    return np.stack([render(scene, rng) for scene in scenes]), scenes


def _outside_chunk(task: tuple[int, int, int]) -> Pictures:
    seed, start, length = task
    rng = np.random.default_rng([seed, start, 1])
    return np.stack([outside_picture(rng) for _ in range(length)])
