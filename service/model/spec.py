"""What the Generator is asked for, and what it gives: plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from service.model.backbone import Size
from service.model.partial import Watch
from service.model.shortcuts import EXACT, Shortcuts
from service.model.style import StyleFeature


class Method(StrEnum):
    """How a style enters. The paper's method is PFB_SAC; the others are its ablation (section 5.3)."""

    PFB_SAC = "pfb+sac"
    PFB = "pfb"
    REP = "rep"  # F_gen replaced by F_style outright
    REP_SAC = "rep+sac"

    @property
    def replaces(self) -> bool:
        return self in (Method.REP, Method.REP_SAC)

    @property
    def corrects_attention(self) -> bool:
        return self in (Method.PFB_SAC, Method.REP_SAC)


@dataclass(frozen=True, slots=True)
class WeightedStyle:
    feature: StyleFeature
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Styling:
    """The styles of one image. `alpha` and `key_step` default to the model's own.

    Several styles add up as weight x Phi(F_style); the weights are used as they are.
    """

    styles: tuple[WeightedStyle, ...]
    strength: float = 1.0
    alpha: float | None = None
    method: Method = Method.PFB_SAC
    key_step: int | None = None


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What images must agree on to be drawn together: it decides the shapes of the tensors."""

    size: Size
    shortcuts: Shortcuts


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image to draw. Equal specs give equal images, alone or in any batch."""

    prompt: str
    seed: int  # 0 .. 2**32 - 1
    size: Size
    negative_prompt: str = ""
    guidance: float | tuple[float, ...] | None = None  # one value, or one a step; None: the model's own
    styling: Styling | None = None
    shortcuts: Shortcuts = EXACT
    watch: Watch | None = field(default=None, compare=False)  # looking on changes nothing

    @property
    def batch_key(self) -> BatchKey:
        return BatchKey(self.size, self.shortcuts)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one batch went, and how the batch was made up."""

    text_seconds: float
    transformer_seconds: float
    decode_seconds: float  # of the images and of their partial images
    step_seconds: tuple[float, ...]
    gap_seconds: tuple[float, ...]  # on the model thread, from the end of a step to the next one's beginning
    num_rows: int
    num_jobs: int
    num_content_paths_shared: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """One finished image; `timings` is shared by all drawings of a batch."""

    image: NDArray[np.uint8]  # [height, width, 3] RGB
    timings: Timings
    num_text_tokens: int  # of the prompt and the negative prompt
    num_image_tokens: int  # of all scales
    warnings: tuple[str, ...] = ()
