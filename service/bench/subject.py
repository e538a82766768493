"""Subject: the model that is measured, at one size, and the work that it does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service.evaluation.plain_form import PlainForm
from service.evaluation.plain_form_infinity import PlainInfinity, has_plain_form
from service.evaluation.plain_form_switti import PlainSwitti
from service.evaluation.random_weights import random_model, shape_of
from service.model.checkpoints import registry as presets
from service.model.checkpoints.loader import OnProgress, no_progress
from service.model.checkpoints.options import DEFAULT_OPTIONS, LoadOptions
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Styling, WeightedStyle
from service.model.infinity import schedules as scales
from service.model.infinity.backbone import Infinity
from service.model.schedule import Size
from service.model.style.feature import StyleFeature
from service.model.switti.backbone import Switti

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectOptions:
    """Which model to measure and how to load it; `size` None is the model's default."""

    model: str
    is_random: bool = False
    device: str = "auto"
    choices: LoadOptions = DEFAULT_OPTIONS
    size: str | None = None
    seed: int = 0
    models_dir: str = ""


@dataclass(frozen=True)
class Subject:
    """A resident model at one size. All its work follows from the seed."""

    backbone: Infinity | Switti
    size: Size
    seed: int
    weights: str

    @cached_property
    def generator(self) -> Generator:
        return Generator(self.backbone)

    @property
    def plain_form(self) -> PlainForm[Any] | None:
        """None for a model that has none."""
        if isinstance(self.backbone, Switti):
            return PlainSwitti(self.backbone)
        return PlainInfinity(self.backbone) if has_plain_form(self.backbone.config) else None

    def at(self, size: Size) -> Subject:
        """The same weights at another size; ValueError when they do not draw it."""
        return replace(self, backbone=_sized(self.backbone, size), size=size)

    @property
    def is_on_cpu(self) -> bool:
        return self.backbone.device.type == "cpu"

    @cached_property
    def budget_sizes(self) -> tuple[Size, ...]:
        """The square size of each official budget; the subject's own alone, for schedules of one's own."""
        if not isinstance(self.backbone, Infinity) or self.backbone.config.budget is None:
            return (self.size,)
        return tuple(scales.schedule(1.0, budget).size for budget in scales.BUDGETS)

    def picture(self, number: int) -> NDArray[np.uint8]:
        """A picture to take a style from, [height, width, 3]: blocks of colour, others for each number."""
        rng = np.random.default_rng((self.seed, number))
        blocks = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        height, width = -(-self.size.height // 8), -(-self.size.width // 8)
        return blocks.repeat(height, 0).repeat(width, 1)[: self.size.height, : self.size.width]

    @cached_property
    def styles(self) -> tuple[StyleFeature, ...]:
        return tuple(self.generator.extract_style(self.picture(number), self.size) for number in range(8))

    def spec(self, number: int, style: int | None = None) -> ImageSpec:
        """Image `number`, with a prompt of its own, so that no text is cached from another."""
        styling = None if style is None else Styling((WeightedStyle(self.styles[style]),))
        prompt = f"a red star on a blue background {number}"
        return ImageSpec(prompt, self.seed + number, self.size, styling=styling)


def load_subject(options: SubjectOptions, on_progress: OnProgress = no_progress) -> Subject:
    """Make the model resident. ValueError with a sentence when there is no such model, device or size."""
    if options.is_random:
        device = presets.device_of(options.device)
        precision = presets.precision_of(device, options.choices)
        shape = shape_of(options.model)
        if options.choices.compile:
            presets.require_compiler()
        backbone = random_model(shape, options.seed, device, precision, options.choices.decoding)
        if presets.reason_not_to_compile(device, options.choices.compile) is None:
            backbone.compile()
            if device.type == "cuda":
                backbone.steps.capture()
    else:
        loaded = presets.load(
            options.model,
            options.device,
            models_dir=Path(options.models_dir),
            choices=options.choices,
            on_progress=on_progress,
        )
        assert isinstance(loaded.backbone, Infinity | Switti)  # the families that there are
        backbone = loaded.backbone
    size = next(iter(backbone.schedules)) if options.size is None else Size.parse(options.size)
    weights = "random" if options.is_random else backbone.fingerprint
    return Subject(_sized(backbone, size), size, options.seed, weights)


def _sized(backbone: Infinity | Switti, size: Size) -> Infinity | Switti:
    """The same weights on the schedules that have this size. How good the image is does not matter."""
    if size in backbone.schedules:
        return backbone
    budgets: tuple[str, ...] = ()
    if isinstance(backbone, Infinity) and backbone.config.budget is not None:
        budgets = tuple(scales.BUDGETS)
        for budget in budgets:
            if size in scales.schedules(budget):
                return Infinity.sharing_weights(backbone, replace(backbone.config, budget=budget))
    squares = [str(scales.schedule(1.0, budget).size) for budget in budgets]
    known = ", ".join(dict.fromkeys([*map(str, backbone.schedules), *squares]))
    raise ValueError(f"{backbone.name} has no size {size}; it draws {known}")
