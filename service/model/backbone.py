"""What a scale-wise backbone offers the Generator, and the plain data the two speak.

A backbone owns weights and nothing else: all that belongs to one batch travels in arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model.device.transfer import DecodedImages
from service.model.engine.quality import Qualities
from service.model.engine.types import Path, Text
from service.model.schedule import Scale, Schedule, Size

CacheT = TypeVar("CacheT")


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

    def begin(
        self, paths: Sequence[Path], schedule: Schedule, *, content_end_step: int | None = None
    ) -> CacheT:
        """Allocate what one batch needs; only its content paths are active until `fork`.

        After `content_end_step`, by default the last, content paths that nobody asked for stop. It may not
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

    def decode(self, feature: Tensor) -> DecodedImages:
        """The images of accumulated features; launched, not waited for."""
