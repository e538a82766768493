"""What each model takes, and how many images at once fit into how much memory: from configurations alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from service.model import presets
from service.model.amounts import in_bytes
from service.model.backbone import Schedule, Size
from service.model.choices import Choices
from service.model.infinity.config import InfinityConfig
from service.model.infinity.footprint import footprint
from service.model.infinity.names import is_text_encoder
from service.model.infinity.released import RELEASED, held_bytes
from service.model.memory import MOST_IMAGES, SHARES
from service.model.precision import Precision, TextPlace, choose
from service.model.weight_files import open_weights

# Memories of graphics cards, in GiB as they are sold, and what the driver and CUDA's kernels take of each.
CARDS = (12, 24, 48, 80)
_DRIVER_BYTES = 2**29


@dataclass(frozen=True, slots=True)
class Need:
    """Of one model at one size, in bytes."""

    name: str
    size: Size
    weights: int
    batches: tuple[int, ...]  # of one image, of two, and so on: the most it takes beside the weights

    def num_images(self, num_bytes: int) -> int:
        """The stylised images that one batch may hold on a GPU of so much memory."""
        room = SHARES["cuda"] * (num_bytes - _DRIVER_BYTES - self.weights)
        return sum(each <= room for each in self.batches)


def needs_of(model: str | None, choices: Choices, models_dir: Path) -> list[Need]:
    """Of every known model at its default size, or of one model at every native size; smallest first.

    A released model is known without its files; of a folder, config.json and the list of the text encoder's
    tensors are read. ValueError with a sentence when there is no such model, or the choices make no sense.
    """
    precision = choose(torch.device("cuda"), precision=choices.precision, text_device=choices.text_device)
    if model is not None:
        return _needs(model, precision, models_dir)
    found = (_needs(name, precision, models_dir)[0] for name in presets.names())
    return sorted(found, key=lambda need: need.weights + need.batches[0])


def _needs(name: str, precision: Precision, models_dir: Path) -> list[Need]:
    if name in RELEASED:
        config, weights = RELEASED[name].config, RELEASED[name].resident_bytes(precision)
    else:
        place = presets.find(name, models_dir)
        config, weights = place.config, _weights(place, precision)
    return [
        Need(config.name, each.size, weights, _batches(config, each, precision))
        for each in config.schedules().values()
    ]


def table(found: Sequence[Need]) -> str:
    """As Markdown."""
    head = ["model", "draws", "weights", "one image", "each more", *(f"{card} GB" for card in CARDS)]
    lines = [head, ["---"] * len(head), *(_line(each) for each in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(need: Need) -> list[str]:
    first, second = need.batches[:2]
    return [
        f"`{need.name}`",
        f"{need.size.width} x {need.size.height}",
        *map(in_bytes, (need.weights, first, second - first)),
        *(str(need.num_images(card * 2**30) or "none") for card in CARDS),
    ]


def _batches(config: InfinityConfig, schedule: Schedule, precision: Precision) -> tuple[int, ...]:
    # A GPU decodes as many together as have room; the whole batch is the most.
    return tuple(
        footprint(config, schedule, num_images, precision.blocks, lambda _: MOST_IMAGES).peak
        for num_images in range(1, MOST_IMAGES + 1)
    )


def _weights(place: presets.Place, precision: Precision) -> int:
    held = held_bytes(place.config, precision.blocks)
    if precision.text_place is not TextPlace.BESIDE:
        return held
    stored = open_weights(place.folder / place.config.files.text_encoder, holds=is_text_encoder).stored
    numbers = sum(math.prod(each.shape) for name, each in stored.items() if is_text_encoder(name))
    return held + precision.text.itemsize * numbers
