"""Backbone: what the engine needs of a scale-wise autoregressive text-to-image model.

A backbone owns weights and nothing else: all that belongs to one batch travels in its cache, an argument.
Texts, style tokens, noise and features' channels are the backbone's own business; the engine passes them on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model.device.precision import PrecisionName
from service.model.device.transfer import DecodedImages
from service.model.engine.quality import Qualities
from service.model.engine.types import Coupling, Path, Text, TextCoverage, Vocabulary
from service.model.schedule import Schedule, Size
from service.model.style.feature import StyleFeature
from service.model.style.tokens import StyleTokens


class BatchCache(Protocol):
    """The state of one batch between steps. It alone knows which paths and rows are active."""

    @property
    def num_rows(self) -> int:
        """Rows of the batch once all its paths are active."""

    @property
    def is_finite(self) -> Tensor:
        """Whether all logits so far were finite: a bool on the device, read once, after the loop."""

    def fork(self, features: Tensor) -> Tensor:
        """Activate the generation paths, each with a copy of its content path's state.

        features: [content paths, channels, H, W] -> [paths, channels, H, W], a generation path's being its
        content path's.
        """

    @property
    def active_paths(self) -> Sequence[int]:
        """The paths that the current step computes, in the order of its logits and codes."""

    def feature_index(self, path: int) -> int:
        """Where a path is among the features that there are; before the fork, where its content path is."""

    def keep_active(self, features: Tensor) -> Tensor:
        """The features of `active_paths`, of those before the step; once they are, they stay as they are."""


CacheT = TypeVar("CacheT", bound=BatchCache)
NoiseT = TypeVar("NoiseT")


class Backbone(Protocol[CacheT, NoiseT]):
    """A resident model (Infinity, Switti). Steps count from 1; step s computes `schedule.scales[s - 1]`.

    Features are accumulated features F_s, [paths, channels, H, W] in fp32 on the image tokenizer's last grid.
    """

    name: str
    fingerprint: str  # 16 hex characters over all that decides a style feature
    schedules: dict[Size, Schedule]  # the native sizes; the first is the default
    guidance: float
    alpha: float
    key_step: int
    device: torch.device
    max_text_tokens: int
    resident_bytes: int  # memory of the weights on `device`
    mapped_bytes: int  # of these, bytes in mapped files, whose pages the system counts as free
    decodes_beside: bool  # whether another thread decodes, beside the next batch (`transfer.decodes_beside`)
    is_compiled: bool  # whether the first batch of each kind waits for a compiler
    precision: PrecisionName  # in which most of the work is done
    qualities: Qualities
    vocabulary: Vocabulary | None  # of a model of few words; None where any word may mean something

    def batch_bytes(self, schedule: Schedule, num_images: int) -> int:
        """The most memory that a batch of so many stylised images takes, beside the weights; and while it is
        decoded, the next one (`decodes_beside`)."""

    # Text and guidance

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        """Encode prompts together; each becomes what it becomes alone. Longer ones are cut."""

    def text_coverage(self, text: str) -> TextCoverage:
        """As of the encoded text, but without encoding it; any thread may ask."""

    def guidance_of_steps(self, guidance: float, num_steps: int) -> tuple[float, ...]:
        """The guidance of each step of a schedule, from the one number that a request names."""

    # The loop over scales

    def begin(self, paths: Sequence[Path], schedule: Schedule, num_steps: int) -> CacheT:
        """Allocate what a batch needs for so many steps; only its content paths are active until the fork."""

    def noise(self, seeds: Sequence[int], schedule: Schedule, num_steps: int) -> NoiseT:
        """What sampling needs, of each content path from its own seed: the same image in any batch."""

    def empty_features(self, cache: CacheT) -> Tensor:
        """F_0 of the active paths."""

    def predict(self, cache: CacheT, features: Tensor, step: int) -> Tensor:
        """Guided logits of a step from the features before it, for the active paths.

        After the last step only the paths whose image is asked for are active.
        """

    def sample(self, cache: CacheT, logits: Tensor, noise: NoiseT, step: int) -> Tensor:
        """Residual codes R_s of the active paths, [paths, channels, h, w]."""

    def couple(
        self, cache: CacheT, codes: Tensor, logits: Tensor, noise: NoiseT, step: int, coupling: Coupling
    ) -> Tensor:
        """`codes`, those of the coupled paths drawn anew: as near to their picture's as the logits allow.

        A code is drawn with the noise that would draw the picture's code from the content path's logits. So
        equal logits give the picture's own code, and over pictures the distribution stays the logits'.
        """

    def accumulate(self, cache: CacheT, features: Tensor, codes: Tensor, step: int) -> Tensor:
        """F_s = F_{s-1} + up(R_s), of the active paths."""

    def decode(self, features: Tensor) -> DecodedImages:
        """Images of accumulated features; launched, not waited for."""

    def decode_preview(self, features: Tensor, schedule: Schedule, step: int) -> DecodedImages:
        """Images of the features after a step, at the resolution of that step's scale."""

    # Styles

    def encode_image(self, image: NDArray[np.uint8], schedule: Schedule, num_steps: int) -> StyleTokens:
        """What the image tokenizer reads in a picture [h, w, 3] RGB over the first steps."""

    def tokens_of_codes(self, codes: Sequence[Tensor]) -> StyleTokens:
        """Style tokens of the codes [1, channels, h, w] that one path sampled at its first steps."""

    def codes_of_tokens(self, tokens: StyleTokens, schedule: Schedule, num_steps: int) -> Sequence[Tensor]:
        """The inverse, of a picture read over so many steps: codes [1, channels, h, w] on the device.

        ValueError when the tokens are not of this schedule, or of several pictures.
        """

    def combine_tokens(
        self, tokens: Sequence[StyleTokens], schedule: Schedule, num_steps: int
    ) -> StyleTokens:
        """The tokens of all these pictures together, whose feature is the mean of theirs.

        ValueError when they are too many, or not of this schedule.
        """

    def decompose(
        self, tokens: StyleTokens, read_at: Schedule, num_steps: int, drawn_at: Schedule
    ) -> StyleFeature:
        """The style feature, for images of `drawn_at`, of tokens read over the first steps of `read_at`.

        ValueError when the tokens are not of that schedule.
        """

    def style_feature(self, style: StyleFeature) -> Tensor:
        """F_style itself, [channels, H, W] fp32 on the CPU."""

    def style_principal(self, style: StyleFeature, alpha: float) -> Tensor:
        """Phi_alpha(F_style), [channels, H, W] fp32 on the CPU (the paper's style feature)."""

    def style_agreement(self, style: StyleFeature) -> float | None:
        """How alike the pictures of a style are, from -1 to 1; None for one picture."""


AnyBackbone = Backbone[Any, Any]
