"""Arms: the ways of drawing that are compared, each with a name that its records and images carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.evaluation.paper.interventions import (
    Blended,
    CorrectedSteps,
    ExchangedComponents,
    Intervention,
    SwappedPrompt,
    images_of,
    intervened,
    posed,
)
from service.evaluation.paper.protocol import Cell, Style, with_words
from service.evaluation.paper.rivals import AdaIN, StyleAlignment
from service.model.device.transfer import cut_to
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Method, Styling, WeightedStyle
from service.model.schedule import Size
from service.model.style.blending import PathStyle
from service.model.style.feature import StyleFeature

Images = list[NDArray[np.uint8]]  # [height, width, 3] RGB


@dataclass(eq=False)
class Studio:
    """A generator, one size, and the style features that were read with it."""

    generator: Generator
    size: Size
    _features: dict[tuple[str, int], StyleFeature] = field(default_factory=dict)
    _of_words: dict[str, StyleFeature] = field(default_factory=dict)

    def feature(self, style: Style, key_step: int) -> StyleFeature:
        known = (style.name, key_step)
        if known not in self._features:
            self._features[known] = self.generator.extract_style(style.picture, self.size, key_step)
        return self._features[known]

    def feature_of_words(self, words: str) -> StyleFeature:
        """Of an image that is drawn from the words, up to the key step (the paper's Figure 14)."""
        if words not in self._of_words:
            tokens = self.generator.tokens_of_text(words, seed=0)
            self._of_words[words] = self.generator.restore_style(tokens, self.size)
        return self._of_words[words]

    def features(self, cells: Sequence[Cell], key_step: int) -> Tensor:
        """F of each cell's style [cells, channels, H, W]."""
        backbone = self.generator.backbone
        parts = [backbone.style_feature(self.feature(cell.style, key_step)) for cell in cells]
        return torch.stack(parts).to(backbone.device)

    def draw(self, specs: Sequence[ImageSpec]) -> Images:
        return [drawing.image for drawing in self.generator.generate(specs)]

    def draw_intervened(
        self, prompts: Sequence[str], seeds: Sequence[int], intervention: Intervention
    ) -> Tensor:
        """F_S of each path."""
        return intervened(self.generator.backbone, self.size, prompts, seeds, intervention)

    def decode(self, features: Tensor) -> Images:
        return images_of(self.generator.backbone, features)


class Arm(Protocol):
    """`name`: letters, digits, dots and dashes, unique, since files are named by it."""

    @property
    def name(self) -> str: ...

    @property
    def rows_per_image(self) -> int:
        """How many paths an image takes beside those that a stylised image has, as a factor."""

    def draw(self, studio: Studio, cells: Sequence[Cell]) -> Images: ...


@dataclass(frozen=True, slots=True)
class Copy:
    """Control: the style image itself, whatever the prompt. What S_img alone would call the best method."""

    name: str = "copy"
    rows_per_image: int = 1

    def draw(self, studio: Studio, cells: Sequence[Cell]) -> Images:
        return [np.asarray(cut_to(Image.fromarray(cell.style.picture), studio.size)) for cell in cells]


@dataclass(frozen=True, slots=True)
class Plain:
    """Control: the prompt alone, or with the style's words, and no style feature."""

    worded: bool = False
    rows_per_image: int = 1

    @property
    def name(self) -> str:
        return "plain-worded" if self.worded else "plain"

    def draw(self, studio: Studio, cells: Sequence[Cell]) -> Images:
        prompts = [cell.worded if self.worded else cell.prompt for cell in cells]
        specs = [
            ImageSpec(prompt, cell.seed, studio.size) for prompt, cell in zip(prompts, cells, strict=True)
        ]
        return studio.draw(specs)


@dataclass(frozen=True, slots=True)
class Styled:
    """The engine's own methods, as the service draws them."""

    name: str
    method: Method
    key_step: int
    alpha: float
    strength: float = 1.0
    worded: bool = False
    num_styles: int = 1  # a mixture of equal parts: the cell's style and the one after it, at most two
    from_words: bool = False  # the style is that of its words, not of its picture
    rows_per_image: int = 1

    def draw(self, studio: Studio, cells: Sequence[Cell]) -> Images:
        return studio.draw([self._spec(studio, cell) for cell in cells])

    def _spec(self, studio: Studio, cell: Cell) -> ImageSpec:
        if self.from_words:
            features = [studio.feature_of_words(cell.style.words)]
        else:
            styles = (cell.style, cell.other_style)[: self.num_styles]
            features = [studio.feature(style, self.key_step) for style in styles]
        styling = Styling(
            tuple(WeightedStyle(feature, 1 / len(features)) for feature in features),
            strength=self.strength,
            alpha=self.alpha,
            method=self.method,
            key_step=self.key_step,
        )
        prompt = cell.worded if self.worded else cell.prompt
        return ImageSpec(prompt, cell.seed, studio.size, styling=styling)


@dataclass(frozen=True, slots=True)
class Corrected:
    """PFB with attention corrected from the key step to another step only, that one included."""

    name: str
    last: int
    key_step: int
    alpha: float
    strength: float = 1.0
    rows_per_image: int = 2

    def draw(self, studio: Studio, cells: Sequence[Cell]) -> Images:
        blended = Blended([self._style(studio, cell) for cell in cells], self.key_step)
        steps = frozenset(range(self.key_step + 1, self.last + 1))
        prompts, seeds = [cell.prompt for cell in cells] * 2, [cell.seed for cell in cells] * 2
        features = studio.draw_intervened(prompts, seeds, CorrectedSteps(blended, steps))
        return studio.decode(features[len(cells) :])

    def _style(self, studio: Studio, cell: Cell) -> PathStyle:
        styles = (WeightedStyle(studio.feature(cell.style, self.key_step)),)
        styling = Styling(styles, strength=self.strength, alpha=self.alpha)
        return PathStyle.of(styling, studio.generator.backbone)


@dataclass(frozen=True, slots=True)
class Components:
    """The `count` largest singular components of F at the key step exchanged for the style's."""

    count: int
    key_step: int
    rows_per_image: int = 1

    @property
    def name(self) -> str:
        return f"components-{self.count}"

    def draw(self, studio: Studio, cells: Sequence[Cell]) -> Images:
        exchanged = ExchangedComponents(studio.features(cells, self.key_step), self.key_step, self.count)
        return _drawn(studio, cells, exchanged)


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Rival: AdaIN at the key step."""

    key_step: int
    name: str = "adain"
    rows_per_image: int = 1

    def draw(self, studio: Studio, cells: Sequence[Cell]) -> Images:
        return _drawn(studio, cells, AdaIN(studio.features(cells, self.key_step), self.key_step))


@dataclass(frozen=True, slots=True)
class Aligned:
    """Rival: scale-wise style alignment, arXiv 2504.06144."""

    pivotal_step: int
    name: str = "style-alignment"
    rows_per_image: int = 2

    def draw(self, studio: Studio, cells: Sequence[Cell]) -> Images:
        num_steps = studio.generator.num_steps(studio.size)
        styles = [studio.features(cells, step) for step in range(1, num_steps + 1)]
        # The style image's own text: what it shows, or nothing where that is not known.
        texts = [cell.style.caption for cell in cells] + [cell.prompt for cell in cells]
        seeds = [cell.seed for cell in cells] * 2
        features = studio.draw_intervened(texts, seeds, StyleAlignment(styles, self.pivotal_step))
        return studio.decode(features[len(cells) :])


@dataclass(frozen=True, slots=True)
class Swapped:
    """Analysis: at one step the prompt names another object, or another style."""

    what: str  # "content" or "style"
    step: int
    rows_per_image: int = 2

    @property
    def name(self) -> str:
        return f"swapped-{self.what}-{self.step}"

    def draw(self, studio: Studio, cells: Sequence[Cell]) -> Images:
        own = [cell.worded for cell in cells]
        others = [
            with_words(cell.other_prompt, cell.style)
            if self.what == "content"
            else with_words(cell.prompt, cell.other_style)
            for cell in cells
        ]
        backbone, seeds = studio.generator.backbone, [cell.seed for cell in cells]
        swapped = SwappedPrompt(backbone, studio.size, posed(backbone, others, seeds), self.step)
        return studio.decode(studio.draw_intervened(own, seeds, swapped))


def _drawn(studio: Studio, cells: Sequence[Cell], intervention: Intervention) -> Images:
    prompts, seeds = [cell.prompt for cell in cells], [cell.seed for cell in cells]
    return studio.decode(studio.draw_intervened(prompts, seeds, intervention))


def of_model(generator: Generator, method: Method = Method.PFB_SAC) -> Styled:
    """A method at the model's own key step and alpha."""
    return Styled(method.value.replace("+", "-"), method, generator.key_step, generator.alpha)


def varied(arm: Styled, name: str, **changes: object) -> Styled:
    return replace(arm, name=name, **changes)  # type: ignore[arg-type]
