"""How many images fit into memory, computed before weights are read, and what to say when too few do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from service.model.backbone import AnyBackbone
from service.model.checkpoints.family import Checkpoint
from service.model.checkpoints.options import LoadOptions
from service.model.device.memory import MAX_IMAGES, SHARES, BatchLimits
from service.model.device.precision import Precision, TextEncoderDevice, choose
from service.model.schedule import Schedule, Size

# Memories of graphics cards, in GiB as they are sold, and what the driver and CUDA's kernels take of each.
CARDS = (12, 24, 48, 80)
_DRIVER_BYTES = 2**29
_SMALLER_MODEL = "a smaller model: `atelier fit` lists what each takes"


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Of one model at one size, in bytes."""

    name: str
    size: Size
    weights: int
    batches: tuple[int, ...]  # of one image, of two, and so on: the most it takes beside the weights

    def max_images(self, num_bytes: int) -> int:
        """The stylised images that one batch may hold on a GPU of so much memory."""
        available = SHARES["cuda"] * (num_bytes - _DRIVER_BYTES - self.weights)
        return sum(batch <= available for batch in self.batches)


def memory_needs(checkpoint: Checkpoint, choices: LoadOptions) -> list[MemoryNeed]:
    """What a model takes on a GPU at each native size, the default first; no weights are read.

    ValueError with a sentence when files that are needed are missing, or the choices make no sense.
    """
    precision = choose(torch.device("cuda"), precision=choices.precision, text_device=choices.text_device)
    weights = checkpoint.weight_bytes(precision.blocks) + checkpoint.text_encoder_bytes(precision)

    def batches(schedule: Schedule) -> tuple[int, ...]:
        return tuple(
            checkpoint.batch_bytes(schedule, num_images, precision.blocks, in_strips=False)
            for num_images in range(1, MAX_IMAGES + 1)
        )

    return [
        MemoryNeed(checkpoint.name, size, weights, batches(schedule))
        for size, schedule in checkpoint.schedules.items()
    ]


def table_of_defaults(checkpoints: Iterable[Checkpoint], choices: LoadOptions) -> str:
    """Of each model at its default size, smallest first."""
    needs = [memory_needs(checkpoint, choices)[0] for checkpoint in checkpoints]
    return table(sorted(needs, key=lambda need: need.weights + need.batches[0]))


def table(needs: Sequence[MemoryNeed]) -> str:
    """As Markdown."""
    head = ["model", "draws", "weights", "one image", "each more", *(f"{card} GB" for card in CARDS)]
    lines = [head, ["---"] * len(head), *map(_line, needs)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(need: MemoryNeed) -> list[str]:
    first, second = need.batches[:2]
    return [
        f"`{need.name}`",
        f"{need.size.width} x {need.size.height}",
        *map(in_bytes, (need.weights, first, second - first)),
        *(str(need.max_images(card * 2**30) or "none") for card in CARDS),
    ]


def require_room_for_weights(
    checkpoint: Checkpoint, precision: Precision, device: torch.device, free: int
) -> None:
    """ValueError with the numbers unless the weights fit into the bytes that are free on the device.

    The text encoder is left out: what it takes is known when it has been read.
    """
    if checkpoint.weight_bytes(precision.blocks) > free:
        raise ValueError(shortage_of_weights(checkpoint, precision, device, free))


def shortage_of_weights(checkpoint: Checkpoint, precision: Precision, device: torch.device, free: int) -> str:
    """The sentence, with what would help."""
    needed, half = (checkpoint.weight_bytes(dtype) for dtype in (precision.blocks, torch.bfloat16))
    remedies = [_SMALLER_MODEL]
    if device.type == "cuda" and precision.text_device is TextEncoderDevice.BESIDE:
        remedies.insert(0, "ATELIER_TEXT_DEVICE=cpu, for the text encoder's part")
    if half < needed and half <= free:
        remedies.insert(0, f"ATELIER_PRECISION=bf16, with which they take {in_bytes(half)}")
    return (
        f"{checkpoint.name} does not fit: its transformer and image tokenizer take {in_bytes(needed)}, and "
        f"{in_bytes(free)} are free on the {device.type.upper()}. What would help: {'; '.join(remedies)}."
    )


def require_room(
    checkpoint: Checkpoint,
    backbone: AnyBackbone,
    precision: Precision,
    sizes: Sequence[Size],
    limits: BatchLimits,
) -> None:
    """ValueError with the numbers, and with what would help, unless an image of each size fits.

    `backbone` is the checkpoint, resident.
    """
    short = [size for size in sizes if not limits.max_images[size]]
    if not short:
        return
    size, device = short[0], backbone.device.type
    image = backbone.batch_bytes(backbone.schedules[size], 1)
    remedies = [*_remedies(checkpoint, device, precision, size, limits.num_bytes), _SMALLER_MODEL]
    raise ValueError(
        f"{backbone.name} has no room to draw: one stylised image of {size} takes {in_bytes(image)} beside "
        f"the weights, which take {in_bytes(backbone.resident_bytes)}, and there are "
        f"{in_bytes(limits.num_bytes)} for it: {SHARES[device]:.0%} of what is free on the {device.upper()}. "
        f"What would help: {'; '.join(remedies)}."
    )


def _remedies(
    checkpoint: Checkpoint, device: str, precision: Precision, size: Size, num_bytes: int
) -> Iterator[str]:
    """Settings with which one image would fit. Each is enough by itself."""
    share, half = SHARES[device], torch.bfloat16

    def need(schedule: Schedule, dtype: torch.dtype = precision.blocks) -> int:
        return checkpoint.batch_bytes(schedule, 1, dtype, in_strips=True)

    schedule = checkpoint.schedules[size]
    image = need(schedule)
    freed = checkpoint.weight_bytes(precision.blocks) - checkpoint.weight_bytes(half)
    if freed and need(schedule, half) <= num_bytes + share * freed:
        yield (
            f"ATELIER_PRECISION=bf16, with which the weights take {in_bytes(freed)} less and the image "
            f"{in_bytes(need(schedule, half))}"
        )
    if image <= num_bytes:
        yield f"ATELIER_DECODING=strips, with which the image takes {in_bytes(image)}"
    text = checkpoint.text_encoder_bytes(precision) if device == "cuda" else 0
    if text and image <= num_bytes + share * text:
        yield f"ATELIER_TEXT_DEVICE=cpu, which frees {in_bytes(text)}"
    for setting, smaller in checkpoint.smaller_schedules.items():
        if need(smaller) <= num_bytes:
            yield (
                f"a config.json with the {setting} for images of {smaller.size}, of which one takes "
                f"{in_bytes(need(smaller))}"
            )


def in_bytes(number: int) -> str:
    """`9.45 GB`, in powers of ten as the hub counts."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} bytes"
