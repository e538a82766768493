"""Rendered pictures with their scenes: made once for a run, kept as one memory-mapped array."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.model.nano.renderer import render
from service.model.nano.scene import Scene, random_scene

_CHUNK = 500


def make_corpus(folder: Path, seed: int, num_images: int) -> tuple[NDArray[np.uint8], list[Scene]]:
    """Pictures [images, 64, 64, 3] and their scenes; rendered by all cores unless the folder has them."""
    pictures, scenes = folder / "pictures.npy", folder / "scenes.json"
    if not scenes.exists():
        folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, num_images, _CHUNK)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            parts = list(
                pool.map(_render_chunk, [(seed, start, min(_CHUNK, num_images - start)) for start in starts])
            )
        np.save(pictures, np.concatenate([part[0] for part in parts]))
        scenes.write_text(json.dumps([asdict(scene) for part in parts for scene in part[1]]))
    return np.load(pictures, mmap_mode="r"), [Scene(**each) for each in json.loads(scenes.read_text())]


def _render_chunk(task: tuple[int, int, int]) -> tuple[NDArray[np.uint8], list[Scene]]:
    seed, start, length = task
    rng = np.random.default_rng([seed, start])
    scenes = [random_scene(rng) for _ in range(length)]
    return np.stack([render(scene, rng) for scene in scenes]), scenes
