"""What each model takes, and how many images at once fit into how much memory: from configurations alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from service.model.checkpoints import registry
from service.model.checkpoints.loader import open_weights
from service.model.checkpoints.options import LoadOptions
from service.model.device.memory import MOST_IMAGES, SHARES, Fit
from service.model.device.precision import Precision, TextEncoderDevice, choose
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import InfinityConfig
from service.model.infinity.memory import footprint
from service.model.infinity.presets import RELEASED, held_bytes
from service.model.infinity.schedules import BUDGETS, schedules
from service.model.infinity.weight_names import is_text_encoder
from service.model.schedule import Schedule, Size

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
        return sum(batch <= room for batch in self.batches)


def needs_of(model: str | None, choices: LoadOptions, models_dir: Path) -> list[Need]:
    """Of every known model at its default size, or of one model at every native size; smallest first.

    A released model is known without its files; of a folder, config.json and the list of the text encoder's
    tensors are read. ValueError with a sentence when there is no such model, or the choices make no sense.
    """
    precision = choose(torch.device("cuda"), precision=choices.precision, text_device=choices.text_device)
    if model is not None:
        return _needs(model, precision, models_dir)
    found = (_needs(name, precision, models_dir)[0] for name in registry.names())
    return sorted(found, key=lambda need: need.weights + need.batches[0])


def _needs(name: str, precision: Precision, models_dir: Path) -> list[Need]:
    if name in RELEASED:
        config, weights = RELEASED[name].config, RELEASED[name].resident_bytes(precision)
    else:
        place = registry.find(name, models_dir)
        config, weights = place.config, _weights(place, precision)
    return [
        Need(config.name, schedule.size, weights, _batches(config, schedule, precision))
        for schedule in config.schedules().values()
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


def _weights(place: registry.ModelLocation, precision: Precision) -> int:
    held = held_bytes(place.config, precision.blocks)
    if precision.text_place is not TextEncoderDevice.BESIDE:
        return held
    stored = open_weights(place.folder / place.config.files.text_encoder, holds=is_text_encoder).stored
    numbers = sum(math.prod(each.shape) for name, each in stored.items() if is_text_encoder(name))
    return held + precision.text.itemsize * numbers


def require_room_for_weights(
    config: InfinityConfig, precision: Precision, device: torch.device, free: int
) -> None:
    """ValueError with the numbers unless the weights fit into the bytes that are free on the device.

    The text encoder is left out: what it takes is known when it has been read.
    """
    if held_bytes(config, precision.blocks) > free:
        raise ValueError(shortage_of_weights(config, precision, device, free))


def shortage_of_weights(config: InfinityConfig, precision: Precision, device: torch.device, free: int) -> str:
    """The sentence, with what would help."""
    needed, half = (held_bytes(config, dtype) for dtype in (precision.blocks, torch.bfloat16))
    remedies = ["a smaller model: `atelier fit` lists what each takes"]
    if device.type == "cuda" and precision.text_place is TextEncoderDevice.BESIDE:
        remedies.insert(0, "ATELIER_TEXT_DEVICE=cpu, for the text encoder's part")
    if half < needed and half <= free:
        remedies.insert(0, f"ATELIER_PRECISION=bf16, with which they take {in_bytes(half)}")
    return (
        f"{config.name} does not fit: its transformer and image tokenizer take {in_bytes(needed)}, and "
        f"{in_bytes(free)} are free on the {device.type.upper()}. What would help: {'; '.join(remedies)}."
    )


def require_room(infinity: Infinity, sizes: Sequence[Size], fit: Fit) -> None:
    """ValueError with the numbers, and with what would help, unless an image of each size fits."""
    short = [size for size in sizes if not fit.num_images[size]]
    if not short:
        return
    size, device = short[0], infinity.device.type
    image = infinity.batch_bytes(infinity.schedules[size], 1)
    remedies = [*_remedies(infinity, size, fit), "a smaller model: `atelier fit` lists what each takes"]
    raise ValueError(
        f"{infinity.name} has no room to draw: one stylised image of {size} takes {in_bytes(image)} beside "
        f"the weights, which take {in_bytes(infinity.resident_bytes)}, and there are "
        f"{in_bytes(fit.num_bytes)} for it: {SHARES[device]:.0%} of what is free on the {device.upper()}. "
        f"What would help: {'; '.join(remedies)}."
    )


def _remedies(infinity: Infinity, size: Size, fit: Fit) -> Iterator[str]:
    """Each would be enough by itself."""
    config, dtype, share = infinity.config, infinity.dtype, SHARES[infinity.device.type]

    def need(schedule: Schedule, dtype: torch.dtype = dtype) -> int:
        return footprint(config, schedule, 1, dtype, lambda _: 0).peak

    schedule = infinity.schedules[size]
    freed = held_bytes(config, dtype) - held_bytes(config, torch.bfloat16)
    half = need(schedule, torch.bfloat16)
    if freed and half <= fit.num_bytes + share * freed:
        yield (
            f"ATELIER_PRECISION=bf16, with which the weights take {in_bytes(freed)} less and the image "
            f"{in_bytes(half)}"
        )
    if need(schedule) <= fit.num_bytes:
        yield f"ATELIER_DECODING=strips, with which the image takes {in_bytes(need(schedule))}"
    text = infinity.text_encoder.num_bytes if infinity.text_encoder and infinity.device.type == "cuda" else 0
    if text and need(schedule) <= fit.num_bytes + share * text:
        yield f"ATELIER_TEXT_DEVICE=cpu, which frees {in_bytes(text)}"
    for budget in _smaller_budgets(config):
        smaller, its_schedule = next(iter(schedules(budget).items()))
        if need(its_schedule) <= fit.num_bytes:
            yield (
                f"a config.json with the budget {budget} for images of {smaller}, of which one takes "
                f"{in_bytes(need(its_schedule))}"
            )


def _smaller_budgets(config: InfinityConfig) -> list[str]:
    """Largest first."""
    own = list(BUDGETS)[: list(BUDGETS).index(config.budget)] if config.budget else []
    return own[::-1]


def in_bytes(number: int) -> str:
    """`9.45 GB`, in powers of ten as the hub counts."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} bytes"
