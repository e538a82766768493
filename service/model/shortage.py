"""What to say when a model's weights do not fit, or not even one image beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from service.model.amounts import in_bytes
from service.model.backbone import Schedule, Size
from service.model.infinity.config import InfinityConfig
from service.model.infinity.footprint import footprint
from service.model.infinity.model import Infinity
from service.model.infinity.released import held_bytes
from service.model.infinity.scales import BUDGETS, schedules
from service.model.memory import SHARES, Fit
from service.model.precision import Precision, TextPlace


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
    if device.type == "cuda" and precision.text_place is TextPlace.BESIDE:
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
