"""The Generator: style extraction and stylised generation on any backbone.

Every job is a content path (plain generation) and, when it has a style, a generation path that forks from it
at the key step. Jobs with the same prompt, seed and guidance share one content path.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model.backbone import Backbone
from service.model.device.memory import batch_limits
from service.model.device.timer import DeviceTimer
from service.model.device.transfer import DecodedImages, index_tensor, send
from service.model.engine.noise import Noise
from service.model.engine.plan import Plan, plan_of, texts_of, the_only
from service.model.engine.previews import PreviewEmitter, preview_steps
from service.model.engine.quality import EXACT, Shortcuts
from service.model.engine.text_cache import TextCache
from service.model.engine.text_style import imagined_bits
from service.model.engine.types import (
    Drawing,
    ImageSpec,
    Styling,
    Text,
    Timings,
    WeightedStyle,
)
from service.model.engine.warmup import of_every_kind, stylised
from service.model.schedule import Scale, Schedule, Size
from service.model.style.feature import (
    StyleFeature,
    blend,
    decompose,
    directions_of,
    feature_of,
    principal_of,
)
from service.model.style.tokens import StyleTokens


class OutOfMemory(RuntimeError):
    """A batch did not fit the device; a smaller one may."""


class Cancelled(Exception):
    """The batch was cancelled and stopped after a step."""


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What the loop over scales leaves."""

    feature: Tensor  # [paths, channels, H, W]
    paths: tuple[int, ...]  # whose features these are
    step_seconds: tuple[float, ...]
    gap_seconds: tuple[float, ...]
    partial_seconds: float  # between the steps, for partial images
    num_rows: int


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A batch that is drawn, but for its images being decoded and copied. Any thread may wait for these."""

    decoded: DecodedImages
    drawings: Callable[[], list[Drawing]]  # waits; one a spec, in order

    @property
    def is_ready(self) -> bool:
        """Whether `drawings` need not wait."""
        return self.decoded.is_ready


class Generator:
    """Draws images on a resident backbone. Not thread-safe: one thread owns it."""

    def __init__(self, backbone: Backbone[Any], sizes: Sequence[Size] | None = None) -> None:
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
        self.max_prompt_tokens = backbone.max_text_tokens
        self._texts = TextCache(backbone.encode_texts)
        self.resident_bytes = backbone.resident_bytes
        self.precision = backbone.precision
        self.limits = batch_limits(backbone)

    def num_steps(self, size: Size, shortcuts: Shortcuts = EXACT) -> int:
        return shortcuts.last_step(len(self._schedule(size).scales))

    def preview_steps(self, size: Size, num_previews: int, shortcuts: Shortcuts = EXACT) -> tuple[int, ...]:
        """The steps after which to show so many partial images."""
        num_steps = self.num_steps(size, shortcuts)
        return preview_steps(num_previews, key_step=self.key_step, num_steps=num_steps)

    def schedule_name(self, size: Size) -> str:
        """Names all that a style feature depends on besides the model: the grids and the key step."""
        return f"{self._schedule(size).name}@{self.key_step}"

    def max_images(self, size: Size) -> int:
        """How many stylised images one batch may hold, from the memory that the resident weights left."""
        return max(1, self.limits.max_images[size])

    def warm_up(self, warmed: Callable[[Size, float], None] = lambda size, seconds: None) -> None:
        """Draw one stylised image of every enabled size, so that the first job pays for nothing.

        Where code is compiled, of the default size also whatever has a version of its own.
        `warmed` is told of each size and its seconds.
        """
        for size in self.sizes:
            began = time.perf_counter()
            blank = np.full((size.height, size.width, 3), 127, np.uint8)
            styling = Styling((WeightedStyle(self.extract_style(blank, size)),))
            self.generate(stylised(size, styling))
            self.restore_style(StyleTokens(np.zeros(self.style_shape, np.uint8)), size)
            if size == self.default_size and self.backbone.is_compiled:
                for batch in of_every_kind(size, styling, self.qualities, self.num_steps(size)):
                    self.generate(batch[: self.max_images(size)])
            warmed(size, time.perf_counter() - began)

    def extract_style(
        self, image: NDArray[np.uint8], size: Size, key_step: int | None = None
    ) -> StyleFeature:
        """The style feature of a picture [h, w, 3] RGB, for images of `size`."""
        return self.decompose_bits(self.read_bits(image, size, key_step), size, key_step)

    def imagine_style(self, prompt: str, seed: int) -> StyleFeature:
        """The style feature of words, for images of the style size."""
        return self.decompose_bits(self.imagine_bits(prompt, seed), self.style_size)

    @torch.inference_mode()
    def read_bits(self, image: NDArray[np.uint8], size: Size, key_step: int | None = None) -> StyleTokens:
        """What the image tokenizer reads in a picture [h, w, 3] RGB, up to the key step."""
        return StyleTokens(self.backbone.encode_image(image, self._schedule(size), key_step or self.key_step))

    @torch.inference_mode()
    def decompose_bits(self, bits: StyleTokens, size: Size, key_step: int | None = None) -> StyleFeature:
        """The style feature of bits that were read for images of this size."""
        grids = self.backbone.feature_grids(self._schedule(size))
        return decompose(bits.ones, grids[: key_step or self.key_step], grids[-1], bits.num_images)

    @torch.inference_mode()
    def imagine_bits(self, prompt: str, seed: int) -> StyleTokens:
        """The bits of words: of their own image at the style size, drawn up to the key step."""
        schedule = self._schedule(self.style_size)
        return StyleTokens(imagined_bits(self.backbone, prompt, seed, schedule, self.key_step))

    @property
    def style_shape(self) -> tuple[int, int]:
        """Tokens and channels of the bits that a style has at the style size."""
        return sum(grid.num_tokens for grid in self._style_grids()), self.backbone.channels

    @torch.inference_mode()
    def restore_style(self, bits: StyleTokens, size: Size) -> StyleFeature:
        """The style feature, for images of `size`, whose bits were taken at the style size.

        For another shape its coarse grids are stretched over the image, as upsampling does anyway: what is
        lost against extracting from a picture anew is only where in the picture the tokens were cut.
        """
        extent = self.backbone.feature_grids(self._schedule(size))[-1]
        return decompose(bits.ones, self._style_grids(), extent, bits.num_images)

    def generate(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> list[Drawing]:
        """Draw a batch of one size. `cancelled` is asked after each step; once True, Cancelled is raised.

        ValueError when the specs differ in size, key step or shortcuts, or name a size that is not native.
        """
        return self.draw(specs, cancelled).drawings()

    def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
        """`generate`, but for waiting for the decoder: on a GPU the next batch can start meanwhile."""
        try:
            with torch.inference_mode():
                return self._draw(specs, cancelled)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"a batch of {len(specs)} images did not fit: {error}") from error

    def _draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool]) -> PendingBatch:
        schedule = self._schedule(the_only({spec.size for spec in specs}, "size"))
        stages = DeviceTimer(self.backbone.device)
        stages.start()
        texts = self._texts.of(text for spec in specs for text in texts_of(spec))
        stages.stop()
        stages.start()
        plan = plan_of(specs, schedule, texts, guidance=self.guidance, key_step=self.key_step)
        walk = self._walk(plan, schedule, cancelled)
        stages.stop()
        stages.start()
        decoded = self.backbone.decode(walk.feature)
        stages.stop()
        num_image_tokens = plan.shortcuts.num_tokens([scale.num_tokens for scale in schedule.scales])

        def drawings() -> list[Drawing]:
            images = dict(zip(walk.paths, decoded.images(), strict=True))
            text_seconds, walk_seconds, decode_seconds = stages.seconds()
            timings = Timings(
                text_seconds=text_seconds,
                transformer_seconds=walk_seconds - walk.partial_seconds,
                decode_seconds=decode_seconds + walk.partial_seconds,
                step_seconds=walk.step_seconds,
                gap_seconds=walk.gap_seconds,
                num_rows=walk.num_rows,
                num_jobs=len(specs),
                num_content_paths_shared=len(specs) - plan.num_content,
            )
            return [
                Drawing(
                    images[path],
                    timings,
                    num_text_tokens=sum(len(texts[text].features) for text in texts_of(spec)),
                    num_image_tokens=num_image_tokens,
                    warnings=self._warnings(texts[spec.prompt]),
                )
                for spec, path in zip(specs, plan.path_of_spec, strict=True)
            ]

        return PendingBatch(decoded, drawings)

    def _walk(self, plan: Plan, schedule: Schedule, cancelled: Callable[[], bool]) -> LoopResult:
        """The loop over scales: the accumulated features of every path, and each step's seconds."""
        backbone, num_steps = self.backbone, plan.num_steps
        present = list(range(plan.num_content))  # the paths whose features these are
        grid = backbone.feature_grids(schedule)[-1]
        shape = (len(present), backbone.channels, grid.height, grid.width)
        feature = torch.zeros(shape, device=backbone.device)
        broken = torch.zeros((), dtype=torch.bool, device=backbone.device)
        generators = [torch.Generator().manual_seed(seed) for seed in plan.seeds]
        noise = Noise(
            lambda step: torch.stack([backbone.noise(generator, schedule, step) for generator in generators]),
            num_steps,
        )
        styles = [self._blended(styling) if styling else None for styling in plan.stylings]
        of_steps = replace(schedule, scales=schedule.scales[:num_steps])
        cache = backbone.begin(plan.paths, of_steps, content_end_step=plan.content_end_step)
        num_rows = cache.num_rows
        laps = DeviceTimer(backbone.device)
        showing = PreviewEmitter(backbone, plan, schedule)
        for step in range(1, num_steps + 1):
            laps.start()
            chosen = self._chosen(feature, present, plan, schedule, step)
            logits = backbone.predict(cache, step, feature, chosen)
            lines = index_tensor([present.index(path) for path in plan.under_way(step)], backbone.device)
            present = plan.under_way(step)
            drawn = noise.at(step)[plan.sources_of(present)]
            codes = backbone.sample(logits, drawn, schedule, step, None if chosen is None else chosen[lines])
            broken = broken | ~torch.isfinite(logits).all()
            feature = feature if len(lines) == len(feature) else feature[lines]
            feature = backbone.accumulate(feature, codes, schedule, step)
            if step == plan.key_step and len(plan.paths) > plan.num_content:
                backbone.fork(cache)
                present = plan.forked
                forked = self._stylise(feature, plan, styles)
                feature = forked[index_tensor(present, backbone.device)]
            laps.stop()
            showing.after(step, feature, present)
            if cancelled():
                raise Cancelled(f"stopped after step {step} of {num_steps}")
        showing.hand_out()
        if broken:  # asked once, after the loop: on a GPU each question waits for the device
            raise FloatingPointError("the model gave logits that are not finite")
        return LoopResult(
            feature, tuple(present), laps.seconds(), laps.gaps(), showing.decode_seconds, num_rows
        )

    def _chosen(
        self, feature: Tensor, present: Sequence[int], plan: Plan, schedule: Schedule, step: int
    ) -> Tensor | None:
        """Tokens of a step that are not skipped, [paths, tokens] in their order; None for all."""
        num_tokens = schedule.scales[step - 1].num_tokens
        num_kept = plan.shortcuts.num_kept(step, num_tokens)
        if num_kept == num_tokens:
            return None
        detail = self.backbone.detail(feature, schedule, step)
        most = detail.sort(dim=-1, descending=True, stable=True).indices[:, :num_kept]
        leaders = [present.index(path) for path in plan.leaders_of(present, step)]
        return most.sort(-1).values[index_tensor(leaders, feature.device)]

    def _stylise(self, feature: Tensor, plan: Plan, styles: Sequence[Tensor | None]) -> Tensor:
        """Every path's feature after the fork, [paths, channels, H, W], from those of the content paths.

        What is blended is decomposed once for each content path, whatever the number of its styles.
        """
        split = sorted({plan.sources[path] for path, each in enumerate(plan.stylings) if _blends(each)})
        directions = directions_of(feature[index_tensor(split, feature.device)]) if split else ()
        of_content = dict(zip(split, directions, strict=True))
        return torch.stack(
            [
                self._styled(
                    feature[source], style, styling, of_content[source] if _blends(styling) else None
                )
                for source, style, styling in zip(plan.sources, styles, plan.stylings, strict=True)
            ]
        )

    def _styled(
        self, feature: Tensor, style: Tensor | None, styling: Styling | None, directions: Tensor | None
    ) -> Tensor:
        """Let the style into one generation path's feature; without a styling it is a content path's.

        Its directions are given where it is blended; where not, it is replaced.
        """
        if styling is None or style is None:
            return feature
        if directions is None:
            return feature + styling.strength * (style - feature)
        return blend(feature, style, self._alpha(styling), styling.strength, directions)

    def _blended(self, styling: Styling) -> Tensor:
        """What an image's styles put in the place of its own, [channels, H, W]; known before the loop."""
        parts = [
            style.weight
            * (
                feature_of(style.feature)
                if styling.method.replaces
                else principal_of(style.feature, self._alpha(styling))
            )
            for style in styling.styles
        ]
        return send(torch.stack(parts).sum(0), self.backbone.device)

    def _alpha(self, styling: Styling) -> float:
        return self.alpha if styling.alpha is None else styling.alpha

    def _warnings(self, text: Text) -> tuple[str, ...]:
        warnings = []
        if not text.num_known:
            can = f"; it draws {self.backbone.draws}" if self.backbone.draws else ""
            warnings.append(f"the prompt names nothing that {self.name} knows{can}")
        if text.is_cut:
            warnings.append(f"the prompt was cut: {self.name} reads {self.max_prompt_tokens} tokens")
        return tuple(warnings)

    def _style_grids(self) -> tuple[Scale, ...]:
        return self.backbone.feature_grids(self._schedule(self.style_size))[: self.key_step]

    def _schedule(self, size: Size) -> Schedule:
        schedule = self.backbone.schedules.get(size)
        if schedule is None:
            raise ValueError(f"{self.name} draws {', '.join(map(str, self.native_sizes))}, not {size}")
        return schedule


def _blends(styling: Styling | None) -> bool:
    return styling is not None and not styling.method.replaces
