"""Sheets of pictures that a run writes while it trains: numbers do not show what is ugly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.tokenizer import Tokenizer, accumulated, quantise
from service.training.captions import full_caption
from service.training.corpus import Corpus
from service.training.recipe import GRIDS
from service.training.scene import BACKGROUNDS, MEDIA, OBJECTS, Scene

_ENLARGED = 2


def save_sheet(file: Path, rows: Sequence[Sequence[NDArray[np.uint8]]]) -> None:
    """Rows of equally many pictures [side, side, 3], as one PNG at twice their size."""
    whole = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    file.parent.mkdir(parents=True, exist_ok=True)
    large = whole.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)
    Image.fromarray(large).save(file)


def save_reconstructions(file: Path, tokenizer: Tokenizer, corpus: Corpus, num_columns: int = 12) -> None:
    """Renders over what the image tokenizer keeps of them, then the same for pictures from outside."""
    rows: list[list[NDArray[np.uint8]]] = []
    num_columns = min(num_columns, len(corpus.renders), len(corpus.outside))
    for pictures in (corpus.renders[:num_columns], corpus.outside[:num_columns]):
        rows += [list(pictures), list(reconstructed(tokenizer, pictures))]
    save_sheet(file, rows)


@torch.no_grad()
def reconstructed(tokenizer: Tokenizer, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures [pictures, 64, 64, 3] through the bits and back."""
    device = next(tokenizer.parameters()).device
    bits = quantise(tokenizer.encode(as_images(np.array(pictures)).to(device)), GRIDS)
    images = tokenizer.decode(accumulated(bits, GRIDS[-1])[-1])
    levels = (images * 127.5 + 127.5).round().permute(0, 2, 3, 1)
    return levels.to(torch.uint8).cpu().numpy()


def as_images(pictures: NDArray[np.uint8]) -> Tensor:
    """[images, 64, 64, 3] uint8 -> [images, 3, 64, 64] in [-1, 1], channels last."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_samples(file: Path, generator: Generator, seed: int, num_columns: int = 8) -> None:
    """Things drawn by lot, the same ones each time, in every medium, from full captions."""
    rng = np.random.default_rng(seed)
    rows = []
    for medium in MEDIA:
        names = rng.choice(OBJECTS, num_columns, replace=False)
        scenes = [Scene(str(name), "", str(rng.choice(BACKGROUNDS)), medium) for name in names]
        specs = [
            ImageSpec(full_caption(scene), seed + column, generator.default_size)
            for column, scene in enumerate(scenes)
        ]
        rows.append([drawing.image for drawing in generator.generate(specs)])
    save_sheet(file, rows)
