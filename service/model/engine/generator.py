"""The Generator: style extraction and stylised generation on any backbone.

Every job is a content path (plain generation) and, when it has a style, a generation path that forks from it
at the key step. Jobs with the same prompt, seed and guidance share one content path.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model.backbone import AnyBackbone
from service.model.device.memory import batch_limits
from service.model.device.precision import full_fp32
from service.model.device.timer import DeviceTimer
from service.model.device.transfer import DecodedImages, index_tensor
from service.model.engine.edits import Edits
from service.model.engine.picture_cache import PictureCache
from service.model.engine.plan import Plan, texts_of, the_only
from service.model.engine.previews import PreviewEmitter, preview_steps
from service.model.engine.quality import EXACT, Shortcuts
from service.model.engine.text_cache import TextCache
from service.model.engine.text_style import require_finite, tokens_of_text
from service.model.engine.types import (
    ContentPicture,
    Drawing,
    ImageSpec,
    Styling,
    TextCoverage,
    Timings,
    WeightedStyle,
)
from service.model.engine.warmup import compiled_batches
from service.model.schedule import Schedule, Size
from service.model.style.blending import blend_styles
from service.model.style.feature import StyleFeature
from service.model.style.tokens import PREPARATION, StyleTokens


class OutOfMemory(RuntimeError):
    """A batch did not fit the device; a smaller one may."""


def is_device_failure(error: Exception) -> bool:
    """Whether the accelerator failed in a way that only a new process mends (no memory left is none)."""
    return isinstance(error, torch.AcceleratorError)


class Cancelled(Exception):
    """The batch was cancelled and stopped after a step."""


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A batch whose images are still to be decoded or copied. Any thread may wait for them."""

    decoded: DecodedImages | None  # None: whoever waits decodes
    drawings: Callable[[], list[Drawing]]  # waits; one a spec, in order

    @property
    def is_ready(self) -> bool:
        """Whether `drawings` need not wait."""
        return self.decoded is not None and self.decoded.is_ready


@dataclass(frozen=True, slots=True)
class _Loop:
    """What the loop over scales leaves."""

    features: Tensor  # [images, channels, H, W]
    index_of_spec: tuple[int, ...]  # of each spec, its image's index among the features
    timer: DeviceTimer  # of the steps; not read before the decoder is launched, as reading it waits
    is_finite: Tensor  # whether all logits were: a bool on its way to the host
    preview_seconds: float  # between the steps, for previews
    num_rows: int


class Generator:
    """Draws images on a resident backbone. Not thread-safe: one thread owns it."""

    def __init__(self, backbone: AnyBackbone, sizes: Sequence[Size] | None = None) -> None:
        """`sizes` are those that are enabled, all native ones by default; the first is the default size."""
        self.backbone = backbone
        self.name = backbone.name
        self.fingerprint = backbone.fingerprint
        self.native_sizes: tuple[Size, ...] = tuple(backbone.schedules)
        self.sizes = self.native_sizes if sizes is None else tuple(sizes)
        self.default_size = self.sizes[0]
        # Style codes are read at this size by every replica of the model, whatever each has enabled.
        self.style_size = self.native_sizes[0]
        self.guidance = backbone.guidance
        self.alpha = backbone.alpha
        self.key_step = backbone.key_step
        self.qualities = backbone.qualities
        self.vocabulary = backbone.vocabulary
        self.max_prompt_tokens = backbone.max_text_tokens
        self.resident_bytes = backbone.resident_bytes
        self.precision = backbone.precision
        self.limits = batch_limits(backbone)
        self._texts = TextCache(backbone.encode_texts)
        self._pictures = PictureCache(self.read_picture)

    def synchronize(self) -> None:
        """Return once the device has done all that it was asked for."""
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize(self.backbone.device)

    def num_steps(self, size: Size, shortcuts: Shortcuts = EXACT) -> int:
        return shortcuts.last_step(len(self._schedule(size).scales))

    def preview_steps(self, size: Size, num_previews: int, shortcuts: Shortcuts = EXACT) -> tuple[int, ...]:
        """The steps after which to show so many previews."""
        num_steps = self.num_steps(size, shortcuts)
        return preview_steps(num_previews, key_step=self.key_step, num_steps=num_steps)

    def cell(self, size: Size) -> int:
        """Pixels on a side of what one token of the last scale covers."""
        return size.width // self._schedule(size).scales[-1].width

    def schedule_name(self, size: Size) -> str:
        """Names all that a style feature depends on besides the model: grids, key step, preparation."""
        return f"{self._schedule(size).name}@{self.key_step}.{PREPARATION}"

    def max_images(self, size: Size) -> int:
        """How many stylised images one batch may hold, from the memory that the resident weights left."""
        return max(1, self.limits.max_images[size])

    @property
    def num_warm_ups(self) -> int:
        """Batches that `warm_up` draws."""
        of_a_kind = self._compiled_kinds(ImageSpec("", 0, self.default_size, styling=Styling(())))
        return len(self.sizes) + len(of_a_kind)

    def warm_up(
        self,
        on_warm: Callable[[Size, float], None] = lambda size, seconds: None,
        cancelled: Callable[[], bool] = never,
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Draw one stylised image of every enabled size; where code is compiled, each kind of batch once.

        `on_warm` is called with each size and the seconds it took, `on_batch` after each batch; `cancelled`
        is asked as by `generate`.
        """
        tokens = self.read_tokens(_grey(self.style_size), self.style_size)
        for size in self.sizes:
            began = time.perf_counter()
            self.restore_style(tokens, size)
            styling = Styling((WeightedStyle(self.extract_style(_grey(size), size)),))
            stylised = ImageSpec("warm up", 0, size, styling=styling)
            for batch in ([stylised], *self._compiled_kinds(stylised)):
                self.generate(batch[: self.max_images(size)], cancelled)
                on_batch()
            on_warm(size, time.perf_counter() - began)

    def _compiled_kinds(self, stylised: ImageSpec) -> list[list[ImageSpec]]:
        """A batch for each version of compiled code, at the default size."""
        if not self.backbone.is_compiled or stylised.size != self.default_size:
            return []
        return list(compiled_batches(stylised, self.qualities, self.num_steps(stylised.size)))

    # Styles

    @full_fp32()
    @torch.inference_mode()
    def read_tokens(self, image: NDArray[np.uint8], size: Size, key_step: int | None = None) -> StyleTokens:
        """What the image tokenizer reads in a picture [h, w, 3] RGB, up to the key step."""
        return self.backbone.encode_image(image, self._schedule(size), key_step or self.key_step)

    def read_picture(self, image: NDArray[np.uint8], size: Size) -> StyleTokens:
        """The tokens of a picture [h, w, 3] RGB over all steps."""
        return self.read_tokens(image, size, self.num_steps(size))

    @full_fp32()
    @torch.inference_mode()
    def tokens_of_text(self, prompt: str, seed: int) -> StyleTokens:
        """The tokens of text: of its own image at the style size, drawn up to the key step."""
        posed = self.vocabulary.posed(prompt, seed) if self.vocabulary else prompt
        return tokens_of_text(self.backbone, posed, seed, self._schedule(self.style_size))

    def warnings_of_text(self, text: str) -> tuple[str, ...]:
        """What the model cannot use of the text of a style; any thread may ask."""
        return self._warnings("text", self.backbone.text_coverage(text))

    def combine_tokens(self, tokens: Sequence[StyleTokens], size: Size) -> StyleTokens:
        """The tokens of all these pictures, read for images of this size; their feature is the mean.

        ValueError when they are too many, or not of this model and size.
        """
        return self.backbone.combine_tokens(tokens, self._schedule(size), self.key_step)

    @full_fp32()
    @torch.inference_mode()
    def decompose(self, tokens: StyleTokens, size: Size, key_step: int | None = None) -> StyleFeature:
        """The style feature of tokens that were read for images of this size."""
        schedule = self._schedule(size)
        return self.backbone.decompose(tokens, schedule, key_step or self.key_step, schedule)

    @full_fp32()
    @torch.inference_mode()
    def restore_style(self, tokens: StyleTokens, size: Size) -> StyleFeature:
        """The style feature, for images of `size`, of tokens that were read at the style size.

        For another shape its coarse grids are stretched over the image, as upsampling does anyway: what is
        lost against extracting from a picture anew is only where in the picture the tokens were cut.
        ValueError when the tokens are not of this model.
        """
        style_schedule = self._schedule(self.style_size)
        return self.backbone.decompose(tokens, style_schedule, self.key_step, self._schedule(size))

    def extract_style(
        self, image: NDArray[np.uint8], size: Size, key_step: int | None = None
    ) -> StyleFeature:
        """The style feature of a picture [h, w, 3] RGB, for images of `size`."""
        return self.decompose(self.read_tokens(image, size, key_step), size, key_step)

    # Images

    def generate(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> list[Drawing]:
        """Draw a batch of one size. `cancelled` is asked after each step; once True, Cancelled is raised.

        ValueError when the specs differ in size, key step or shortcuts, or name a size that is not native.
        """
        return self.draw(specs, cancelled).drawings()

    def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
        """`generate`, but for waiting for the decoder: the next batch can start meanwhile."""
        try:
            with torch.inference_mode():
                return self._draw(specs, cancelled)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"a batch of {len(specs)} images did not fit: {error}") from error

    def _draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool]) -> PendingBatch:
        specs = [spec.posed(self.vocabulary) for spec in specs]
        schedule = self._schedule(the_only({spec.size for spec in specs}, "size"))
        timer = DeviceTimer(self.backbone.device)
        with timer.measure():
            texts = self._texts.texts_of(text for spec in specs for text in texts_of(spec))
        with timer.measure():
            pictures = (spec.edit.picture for spec in specs if spec.edit)
            tokens = self._pictures.tokens_of(pictures, schedule.size)
        with timer.measure():
            plan = Plan.of(specs, schedule, texts, self.backbone)
            loop = self._loop_over_scales(plan, specs, tokens, cancelled)

        def decode() -> DecodedImages:
            with torch.inference_mode(), timer.measure():
                return self.backbone.decode(loop.features)

        decoded = None if self.backbone.decodes_beside else decode()

        def drawings() -> list[Drawing]:
            num_edits = sum(spec.edit is not None for spec in specs)
            images = (decoded or decode()).images()  # waits for the device, once for all that follows
            require_finite(loop.is_finite)
            timings = _timings(timer, loop, plan, num_edits)
            num_tokens = plan.shortcuts.num_tokens([scale.num_tokens for scale in schedule.scales])
            return [
                Drawing(
                    images[index],
                    timings,
                    num_text_tokens=sum(texts[text].num_tokens for text in texts_of(spec)),
                    num_image_tokens=num_tokens,
                    warnings=()
                    if spec.prompt is None
                    else self._warnings("prompt", texts[spec.prompt].coverage),
                )
                for spec, index in zip(specs, loop.index_of_spec, strict=True)
            ]

        return PendingBatch(decoded, drawings)

    def _loop_over_scales(
        self,
        plan: Plan,
        specs: Sequence[ImageSpec],
        tokens: Mapping[ContentPicture, StyleTokens],
        cancelled: Callable[[], bool],
    ) -> _Loop:
        backbone, num_steps = self.backbone, plan.num_steps
        noise = backbone.noise(plan.seeds, plan.schedule, num_steps)
        cache = backbone.begin(plan.paths, plan.schedule, num_steps)
        features = backbone.empty_features(cache)  # F_0: [paths, channels, H, W]
        edits = Edits(backbone, cache, plan, tokens, features)
        styles = [edits.style_of(path) for path in range(len(plan.paths))]
        previews = PreviewEmitter(backbone, cache, plan, specs)
        timer = DeviceTimer(backbone.device)

        for step in range(1, num_steps + 1):
            with timer.measure():
                logits = backbone.predict(cache, features, step)  # of the active paths
                codes = backbone.sample(cache, logits, noise, step)  # R_s
                codes = edits.couple(codes, logits, noise, step)  # near to those of an edited picture
                features = edits.accumulate(features, codes, step)  # F_s = F_{s-1} + up(R_s)
                if step == plan.key_step:  # Principal Feature Blending
                    features = blend_styles(cache.fork(features), plan.paths, styles)
            previews.emit(features, step)
            if cancelled():
                raise Cancelled(f"stopped after step {step} of {num_steps}")

        previews.show()
        indices = [cache.feature_index(path) for path in plan.path_of_spec]
        drawn = sorted(set(indices))
        return _Loop(
            features=features[index_tensor(drawn, features.device)]
            if len(drawn) < len(features)
            else features,
            index_of_spec=tuple(map(drawn.index, indices)),
            timer=timer,
            is_finite=cache.is_finite.to("cpu", non_blocking=True),
            preview_seconds=previews.decode_seconds,
            num_rows=cache.num_rows,
        )

    def _warnings(self, what: str, text: TextCoverage) -> tuple[str, ...]:
        warnings = []
        if not text.num_known:
            can = f"; it draws {self.vocabulary.draws}" if self.vocabulary else ""
            warnings.append(f"the {what} names nothing that {self.name} knows{can}")
        if text.unknown_words:
            warnings.append(
                f"{self.name} does not know in the {what}: {', '.join(map(str, text.unknown_words))}"
            )
        if text.is_cut:
            warnings.append(f"the {what} was cut: {self.name} reads {self.max_prompt_tokens} tokens")
        return tuple(warnings)

    def _schedule(self, size: Size) -> Schedule:
        schedule = self.backbone.schedules.get(size)
        if schedule is None:
            raise ValueError(f"{self.name} draws {', '.join(map(str, self.native_sizes))}, not {size}")
        return schedule


def _grey(size: Size) -> NDArray[np.uint8]:
    return np.full((size.height, size.width, 3), 127, np.uint8)


def _timings(timer: DeviceTimer, loop: _Loop, plan: Plan, num_edits: int) -> Timings:
    text_seconds, tokenize_seconds, loop_seconds, decode_seconds = timer.seconds()
    return Timings(
        text_seconds=text_seconds,
        tokenize_seconds=tokenize_seconds,
        transformer_seconds=loop_seconds - loop.preview_seconds,
        decode_seconds=decode_seconds + loop.preview_seconds,
        step_seconds=loop.timer.seconds(),
        gap_seconds=loop.timer.gaps(),
        num_rows=loop.num_rows,
        num_jobs=len(plan.path_of_spec),
        num_content_paths_shared=len(plan.path_of_spec) - len(plan.seeds),
        num_edits=num_edits,
    )
