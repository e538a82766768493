"""What a scale-wise backbone offers the Generator, and the plain data the two speak.

A backbone owns weights and nothing else: all that belongs to one batch travels in arguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model.decoded import Decoded
from service.model.shortcuts import Qualities

CacheT = TypeVar("CacheT")


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """The size of an image in pixels; written `WIDTHxHEIGHT`, as the OpenAI API does."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read `"64x64"`; ValueError when the text has another form."""
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
        if match is None:
            raise ValueError(f"a size is written WIDTHxHEIGHT, such as 1024x1024, not {text!r}")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class Scale:
    """One token grid of a schedule."""

    height: int
    width: int

    @property
    def num_tokens(self) -> int:
        return self.height * self.width

    def times(self, factor: int) -> Scale:
        return Scale(self.height * factor, self.width * factor)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The scales of one image size, coarse to fine.

    `rope_extent` is the grid whose coordinates position every token (golden README, 1.5): the last scale of
    the 1M schedule of the same aspect ratio, whatever schedule is being run.
    """

    size: Size
    scales: tuple[Scale, ...]
    rope_extent: Scale

    @property
    def num_tokens(self) -> int:
        return sum(scale.num_tokens for scale in self.scales)

    @property
    def name(self) -> str:
        """A short, unambiguous name of the grids: part of a style feature's cache key."""
        return "-".join(f"{scale.height}.{scale.width}" for scale in self.scales)


@dataclass(frozen=True, slots=True)
class Text:
    """An encoded prompt: the text encoder's last hidden state, without padding."""

    features: Tensor  # [tokens, text channels] fp32
    num_known: int = 0  # words of the prompt that mean something to the model
    num_unknown: int = 0
    is_cut: bool = False  # the prompt was longer than the model reads


@dataclass(frozen=True, slots=True)
class Path:
    """One image on its way through the scales.

    `source` is None on a content path. On a generation path it is the index of the content path that the
    path is forked from at the key step; `corrected` says whether its attention follows that path afterwards.
    """

    text: Text
    negative: Text | None
    guidance: tuple[float, ...]  # one value a step
    source: int | None = None
    corrected: bool = False
    drawn: bool = True  # whether its image is asked for; without, a content path only guides


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the tensor batch: a path, and one of its guidance halves."""

    path: int
    conditional: bool


def lay_out(paths: Sequence[Path]) -> tuple[Row, ...]:
    """The one place that fixes the order of rows.

    Paths come in the order content, generation without correction, generation with correction, so that the
    rows which compute their own attention are a prefix, and so are the rows that exist before the fork. Among
    paths of one kind the conditional halves come first: they are what neighbours may read the same text with.
    A path whose guidance is 1 at every step has no unconditional half.
    """
    ranks = [(path.source is not None) + path.corrected for path in paths]
    assert ranks == sorted(ranks), "paths must come as content, uncorrected, corrected"
    halves = [
        (rank, not conditional, index)
        for index, (rank, path) in enumerate(zip(ranks, paths, strict=True))
        for conditional in ((True, False) if any(g != 1.0 for g in path.guidance) else (True,))
    ]
    return tuple(Row(index, not unconditional) for _, unconditional, index in sorted(halves))


class Backbone(Protocol, Generic[CacheT]):
    """A scale-wise autoregressive text-to-image model (Infinity, Switti), seen by the Generator.

    Features are accumulated features, [paths, channels, H, W] in fp32 on the image tokenizer's grid.
    Steps count from 1; `schedule.scales[step - 1]` is computed by step `step`.
    """

    name: str
    fingerprint: str
    schedules: dict[Size, Schedule]
    guidance: float
    alpha: float
    key_step: int
    channels: int
    device: torch.device
    max_text_tokens: int
    resident_bytes: int  # memory of the weights on `device`
    mapped_bytes: int  # of them in files, whose pages the system counts as free
    is_compiled: bool  # whether the first batch of each kind waits for a compiler
    precision: Literal["fp32", "bf16"]  # in which most of the work is done
    qualities: Qualities
    draws: str  # what a model of few words can draw; empty where any word may mean something

    def batch_bytes(self, schedule: Schedule, num_images: int) -> int:
        """The most memory that a batch of so many stylised images takes, beside the weights."""

    def feature_grids(self, schedule: Schedule) -> tuple[Scale, ...]:
        """The scales on the image tokenizer's grid, on which codes and features live."""

    def encode_text(self, prompt: str) -> Text:
        """Encode one prompt; longer ones are cut to `max_text_tokens`."""

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        """Encode several prompts together; each becomes what it becomes alone."""

    def begin(self, paths: Sequence[Path], schedule: Schedule, *, parting_step: int | None = None) -> CacheT:
        """Allocate what one batch needs; only its content paths are active until `fork`.

        After `parting_step`, the last one when left out, content paths that nobody asked for stop. It may not
        be before the fork's.
        """

    def fork(self, cache: CacheT) -> None:
        """Give every generation path a copy of its content path's state, and make it active."""

    def predict(self, cache: CacheT, step: int, feature: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Guided logits of step `step` from the feature after the step before, for the active paths.

        With `chosen` [paths, tokens] only these tokens of each path are computed. The parting step gives the
        logits of drawn paths alone.
        """

    def detail(self, feature: Tensor, schedule: Schedule, step: int) -> Tensor:
        """How far each token of a step's input is from their mean: [paths, tokens]."""

    def noise(self, generator: torch.Generator, schedule: Schedule, step: int) -> Tensor:
        """Draw what sampling one path at this step needs, from that image's own generator."""

    def sample(
        self, logits: Tensor, noise: Tensor, schedule: Schedule, step: int, chosen: Tensor | None = None
    ) -> Tensor:
        """Residual codes of the step, [paths, channels, h, w]; 0 at tokens that are not `chosen`."""

    def accumulate(self, feature: Tensor, codes: Tensor, schedule: Schedule, step: int) -> Tensor:
        """F_s = F_{s-1} + up(R_s)."""

    def encode_image(self, image: NDArray[np.uint8], schedule: Schedule, num_steps: int) -> NDArray[np.uint8]:
        """Bits of a picture [h, w, 3] over the first steps: [tokens, channels] on the feature grids."""

    def decode(self, feature: Tensor) -> Decoded:
        """The images of accumulated features; launched, not waited for."""
