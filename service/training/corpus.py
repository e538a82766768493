"""The pictures of a run: rendered scenes, and some from outside their world. Made once, memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.training.outside_pictures import outside_picture
from service.training.renderer import Renderer
from service.training.scene import POSES, Scene, random_scene
from service.training.sprites import Sprites

Pictures = NDArray[np.uint8]  # [pictures, 64, 64, 3], RGB
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Corpus:
    renders: Pictures
    scenes: list[Scene]  # of each render
    outside: Pictures


def make_corpus(folder: Path, seed: int, num_images: int, num_outside: int) -> Corpus:
    """Of the sprites in `folder`, made by all cores, unless the folder has it already."""
    renders, scenes = make_renders(folder, folder, seed, num_images)
    outside = folder / "outside.npy"
    if not outside.exists():
        _save(outside, np.concatenate(_parts(_outside_chunk, num_outside, seed)))
    return Corpus(renders, scenes, np.load(outside, mmap_mode="r"))


def make_renders(
    folder: Path, sprites: Path, seed: int, num_images: int, *, held_out: bool | None = False
) -> tuple[Pictures, list[Scene]]:
    """Rendered pictures and what they show: `scene.random_scene(held_out=...)` of the sprites in a folder."""
    renders, scenes = folder / "renders.npy", folder / "scenes.json"
    if not scenes.exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        parts = _parts(_render_chunk, num_images, seed, sprites, held_out)
        _save(renders, np.concatenate([part[0] for part in parts]))
        scenes.write_text(json.dumps([asdict(scene) for part in parts for scene in part[1]]))
    return np.load(renders, mmap_mode="r"), [Scene(**load) for load in json.loads(scenes.read_text())]


def _save(file: Path, array: Pictures) -> None:
    np.save(file.with_suffix(".new.npy"), array)
    file.with_suffix(".new.npy").replace(file)


def _parts(work: Callable[..., Any], total: int, *shared: Any) -> list[Any]:
    starts = range(0, total, _CHUNK)
    lengths = [min(_CHUNK, total - start) for start in starts]
    num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(partial(work, *shared), starts, lengths))


@cache
def _renderer(sprites: Path) -> Renderer:
    return Renderer(Sprites.load(sprites))


def _render_chunk(
    seed: int, sprites: Path, held_out: bool | None, start: int, length: int
) -> tuple[Pictures, list[Scene]]:
    rng = np.random.default_rng([seed, start])
    # A picture's pose is in its caption: a model of which each pose is asked by name draws none of them
    # half, as the mean of all.
    scenes = [
        replace(random_scene(rng, held_out=held_out), pose=POSES[rng.integers(len(POSES))])
        for _ in range(length)
    ]
    return np.stack([_renderer(sprites).render(scene, rng) for scene in scenes]), scenes


def _outside_chunk(seed: int, start: int, length: int) -> Pictures:
    rng = np.random.default_rng([seed, start, 1])
    return np.stack([outside_picture(rng) for _ in range(length)])
