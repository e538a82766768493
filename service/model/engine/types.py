"""The Generator's inputs and outputs, and what it hands to a backbone: plain frozen data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.model.engine.quality import EXACT, Shortcuts
from service.model.schedule import Size
from service.model.style.feature import StyleFeature


class Method(StrEnum):
    """How a style enters. The paper's method is PFB_SAC; the others are its ablations."""

    PFB_SAC = "pfb+sac"
    PFB = "pfb"
    REP = "rep"  # F_gen replaced by F_style outright
    REP_SAC = "rep+sac"

    @property
    def replaces_whole_feature(self) -> bool:
        return self in (Method.REP, Method.REP_SAC)

    @property
    def corrects_attention(self) -> bool:
        return self in (Method.PFB_SAC, Method.REP_SAC)


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """A part of an image. Two areas are equal when they are the same object."""

    pixels: NDArray[np.bool_]  # [height, width], of the size of the image


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture, in shares of its width and height: 0 <= left < right <= 1, and so down."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class WeightedStyle:
    feature: StyleFeature
    weight: float = 1.0
    area: Area | None = None  # where in the image; None: everywhere
    box: Box | None = None  # from which part of the style's picture; None: from all of it


@dataclass(frozen=True, slots=True)
class Styling:
    """The styles of one image. `alpha` and `key_step` default to the model's own.

    Several styles add up as weight x Phi(F_style); the weights are used as they are. Where styles have areas,
    all have, a weight is the strength in its own, and where areas overlap they share.
    """

    styles: tuple[WeightedStyle, ...]
    strength: float = 1.0
    alpha: float | None = None
    method: Method = Method.PFB_SAC
    key_step: int | None = None


@dataclass(frozen=True, slots=True)
class ContentPicture:
    """A picture that images are made of. Two are equal when their digests are."""

    digest: str  # of the pixels
    pixels: NDArray[np.uint8] = field(compare=False, repr=False)  # [height, width, 3] RGB, of any size


@dataclass(frozen=True, slots=True)
class Edit:
    """The picture that an image is made of, and how much of it stays.

    `structure` decides until which step the image has the picture's residual codes. 1: to the last step. 0:
    to the key step when there is a style, and not at all when there is none. Between them a step may be a
    mixture of both. Outside `mask` all codes are the picture's.
    """

    picture: ContentPicture
    structure: float
    mask: Area | None = None


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What images must agree on to be drawn together: it decides the shapes of the tensors."""

    size: Size
    shortcuts: Shortcuts


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image to draw. Equal specs give equal images, alone or in any batch."""

    prompt: str | None  # None: no text at all, and no guidance
    seed: int  # 0 .. 2**32 - 1
    size: Size
    negative_prompt: str = ""
    guidance: float | tuple[float, ...] | None = None  # one value, or one a step; None: the model's own
    styling: Styling | None = None
    edit: Edit | None = None
    shortcuts: Shortcuts = EXACT
    previews: PreviewRequest | None = field(default=None, compare=False)  # change no image

    @property
    def batch_key(self) -> BatchKey:
        return BatchKey(self.size, self.shortcuts)

    def posed(self, vocabulary: Vocabulary | None) -> ImageSpec:
        """This, with a pose of the model's in the prompt; not for an edit, whose picture has one."""
        if vocabulary is None or self.prompt is None or self.edit is not None:
            return self
        return replace(self, prompt=vocabulary.posed(self.prompt, self.seed))


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one batch went, and how the batch was made up."""

    text_seconds: float
    tokenize_seconds: float  # of pictures to edit
    transformer_seconds: float
    decode_seconds: float  # of the images and of their previews
    step_seconds: tuple[float, ...]
    gap_seconds: tuple[float, ...]  # on the model thread, from the end of a step to the next one's beginning
    num_rows: int
    num_jobs: int
    num_content_paths_shared: int
    num_edits: int  # of the jobs


@dataclass(frozen=True, slots=True)
class Drawing:
    """One finished image; `timings` is shared by all drawings of a batch."""

    image: NDArray[np.uint8]  # [height, width, 3] RGB
    timings: Timings
    num_text_tokens: int  # of the prompt and the negative prompt
    num_image_tokens: int  # of all scales
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextCoverage:
    """How much of a text a model can use."""

    num_known: int = 0  # words that mean something to the model
    is_cut: bool = False  # the text is longer than the model reads
    unknown_words: tuple[UnknownWord, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """An encoded prompt. `conditioning` is what the backbone's text encoder made of it, opaque here."""

    conditioning: Any
    num_tokens: int
    num_bytes: int
    coverage: TextCoverage = TextCoverage()


@dataclass(frozen=True, slots=True)
class UnknownWord:
    """A word that means nothing to a model of few words; the first few of a text are named."""

    word: str
    nearest: str | None  # of the words that mean something to it, the one spelt most alike

    def __str__(self) -> str:
        return f'"{self.word}"' + (
            f' (the nearest that it knows is "{self.nearest}")' if self.nearest else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a model of few words draws, by names to use in prompts."""

    draws: str  # all of it in a sentence's half
    things: tuple[str, ...] = ()  # in the singular: "fox", "hot air balloon"
    colours: tuple[str, ...] = ()
    media: tuple[str, ...] = ()  # "watercolour"
    poses: tuple[str, ...] = ()  # of which the seed picks one where a prompt names none

    def posed(self, prompt: str, seed: int) -> str:
        """The prompt with the pose that the seed picks, where it names something, but no pose."""
        words = re.findall(r"\w+", prompt.lower())
        if not words or not self.poses or any(pose in words for pose in self.poses):
            return prompt
        return f"{self.poses[seed % len(self.poses)]}: {prompt}"


@dataclass(frozen=True, slots=True)
class Path:
    """One image on its way through the scales.

    `source` is None on a content path. On a generation path it is the index of the content path that it is
    forked from at the key step; `corrected` says whether it attends with that path's queries and keys from
    then on (the paper's Structural Attention Correction).
    """

    text: Text | None  # None: the unconditional text
    negative: Text | None
    guidance: tuple[float, ...]  # one value a step
    source: int | None = None
    corrected: bool = False
    drawn: bool = True  # whether the last step must give its logits


@dataclass(frozen=True, slots=True, eq=False)
class Coupling:
    """Of one step: the active paths whose codes stay near those of a picture, and what these are."""

    paths: Tensor  # [n], their indices among the active paths
    references: Tensor  # [n], the same of their content paths
    sources: tuple[int, ...]  # the content paths themselves
    codes: Tensor  # [n, channels, h, w], the picture's


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """The image so far: the accumulated feature after `step`, decoded at that scale's own resolution."""

    image: NDArray[np.uint8]  # [height, width, 3] RGB, smaller than the image that is being drawn
    step: int
    num_steps: int


@dataclass(frozen=True, slots=True, eq=False)
class PreviewRequest:
    """After which steps to show an image. `show` runs on the model thread: it may neither wait nor raise."""

    steps: tuple[int, ...]
    show: Callable[[Preview], None]
