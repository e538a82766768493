"""A second backbone, a few tables of random numbers, that shares no code with Infinity.

A text is the sum of its letters' rows in a table; a cell's logits are looked up from the text and from the
feature in that cell; codes come from a codebook; `up` mixes channels and has a bias; guidance grows from step
to step; noise is addressed by seed and step. There is no attention, and so nothing to correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.model.device.precision import PrecisionName
from service.model.device.transfer import DecodedImages
from service.model.engine.quality import Qualities, Shortcuts
from service.model.engine.types import Coupling, Path, Text, TextCoverage, Vocabulary
from service.model.schedule import Scale, Schedule, Size
from service.model.style.blending import directions_of, principal
from service.model.style.feature import StyleFeature
from service.model.style.tokens import StyleTokens

CHANNELS, NUM_CODES, PIXELS_PER_CELL, MAX_STEPS = 4, 32, 4, 4


def square_schedule(*sides: int) -> Schedule:
    size = Size(sides[-1] * PIXELS_PER_CELL, sides[-1] * PIXELS_PER_CELL)
    return Schedule(size, tuple(Scale(side, side) for side in sides))


class ToyCache:
    """Which paths are active; there are no keys or values to keep."""

    def __init__(self, paths: Sequence[Path], schedule: Schedule, num_steps: int) -> None:
        self.paths, self.schedule, self.num_steps = paths, schedule, num_steps
        self.num_rows = 2 * len(paths)
        self.is_finite = torch.tensor(True)
        self.active = [index for index, path in enumerate(paths) if path.source is None]
        self.before = list(self.active)  # the paths of the features before a step

    def content_of(self, path: int) -> int:
        source = self.paths[path].source
        return path if source is None else source

    def fork(self, features: Tensor) -> Tensor:
        self.active = self.before = list(range(len(self.paths)))
        return features[[self.content_of(path) for path in self.active]]

    def feature_index(self, path: int) -> int:
        return self.active.index(path if path in self.active else self.content_of(path))

    @property
    def active_paths(self) -> Sequence[int]:
        return self.active

    def keep_active(self, features: Tensor) -> Tensor:
        kept = [self.before.index(path) for path in self.active]
        self.before = list(self.active)
        return features[kept]


@dataclass(frozen=True)
class ToyNoise:
    """Of a seed and a step, without a state: drawn with a counter."""

    seeds: Sequence[int]
    schedule: Schedule

    def at(self, path: int, step: int) -> Tensor:
        """Gumbel noise [tokens, codes] of a content path."""
        bits = np.random.Philox(key=self.seeds[path], counter=[0, 0, 0, step])
        shape = self.schedule.scales[step - 1].num_tokens, NUM_CODES
        return torch.from_numpy(np.random.Generator(bits).gumbel(size=shape)).float()


class ToyBackbone:
    """A Backbone[ToyCache, ToyNoise]."""

    device = torch.device("cpu")
    alpha, guidance, key_step = 1.0, 2.0, 2
    max_text_tokens = 40
    resident_bytes, mapped_bytes = 1 << 16, 0
    is_compiled = decodes_beside = False
    precision: PrecisionName = "fp32"
    qualities = Qualities(low=Shortcuts(stop_after=3))
    vocabulary: Vocabulary | None = None

    def __init__(self, name: str = "toy", seed: int = 0) -> None:
        self.name, self.fingerprint = name, f"{seed:016x}"
        self.schedules = {
            schedule.size: schedule for schedule in (square_schedule(1, 2, 3, 4), square_schedule(1, 2, 4, 8))
        }
        generator = torch.Generator().manual_seed(seed)

        def table(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self._letters, self._codebook = table(256, NUM_CODES), table(NUM_CODES, CHANNELS)
        self._mix, self._bias = table(MAX_STEPS, CHANNELS, CHANNELS) * 0.3, table(MAX_STEPS, CHANNELS, 1, 1)
        self._from_pixels, self._to_pixels = table(CHANNELS, 3), table(3, CHANNELS)

    def batch_bytes(self, schedule: Schedule, num_images: int) -> int:
        return num_images << 20

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        return [self._encode(prompt.encode()) for prompt in prompts]

    def text_coverage(self, text: str) -> TextCoverage:
        num_letters = len(text.encode())
        return TextCoverage(min(num_letters, self.max_text_tokens), num_letters > self.max_text_tokens)

    def _encode(self, letters: bytes) -> Text:
        used = letters[: self.max_text_tokens]
        pooled = self._letters[list(used)].sum(0) / max(1, len(used)) ** 0.5
        return Text(pooled, len(used), pooled.nbytes, TextCoverage(len(used), len(letters) > len(used)))

    def guidance_of_steps(self, guidance: float, num_steps: int) -> tuple[float, ...]:
        return tuple(guidance * step / num_steps for step in range(1, num_steps + 1))

    def begin(self, paths: Sequence[Path], schedule: Schedule, num_steps: int) -> ToyCache:
        return ToyCache(paths, schedule, num_steps)

    def noise(self, seeds: Sequence[int], schedule: Schedule, num_steps: int) -> ToyNoise:
        return ToyNoise(seeds, schedule)

    def empty_features(self, cache: ToyCache) -> Tensor:
        extent = cache.schedule.scales[-1]
        return torch.zeros(len(cache.active), CHANNELS, extent.height, extent.width)

    def predict(self, cache: ToyCache, features: Tensor, step: int) -> Tensor:
        if step == cache.num_steps:
            cache.active = [path for path in cache.active if cache.paths[path].drawn]
        kept = [cache.before.index(path) for path in cache.active]
        logits = []
        for feature, index in zip(features[kept], cache.active, strict=True):
            path = cache.paths[index]
            seen = (
                _pooled(feature[None], cache.schedule.scales[step - 1])[0].flatten(1).T
            )  # [tokens, channels]
            unconditional = seen @ self._codebook.T
            if path.negative is not None:
                unconditional = unconditional + path.negative.conditioning
            conditional = seen @ self._codebook.T
            if path.text is not None:
                conditional = conditional + path.text.conditioning
            weight = path.guidance[step - 1]
            logits.append(weight * conditional + (1 - weight) * unconditional)
        guided = torch.stack(logits)  # [paths, tokens, codes]
        cache.is_finite = cache.is_finite & torch.isfinite(guided).all()
        return guided

    def sample(self, cache: ToyCache, logits: Tensor, noise: ToyNoise, step: int) -> Tensor:
        drawn = torch.stack([noise.at(cache.content_of(path), step) for path in cache.active])
        return self._codes((logits + drawn).argmax(-1), cache.schedule.scales[step - 1])

    def couple(
        self, cache: ToyCache, codes: Tensor, logits: Tensor, noise: ToyNoise, step: int, coupling: Coupling
    ) -> Tensor:
        """The picture's code where it is the likelier one of the two under the path's own logits."""
        drawn = self._nearest(codes[coupling.paths].flatten(2).mT)
        picture = self._nearest(coupling.codes.flatten(2).mT)
        scores = logits[coupling.paths] - logits[coupling.references].logsumexp(-1, keepdim=True)
        is_likelier = scores.gather(-1, picture[..., None]) >= scores.gather(-1, drawn[..., None])
        chosen = torch.where(is_likelier[..., 0], picture, drawn)
        return codes.index_copy(0, coupling.paths, self._codes(chosen, cache.schedule.scales[step - 1]))

    def accumulate(self, cache: ToyCache, features: Tensor, codes: Tensor, step: int) -> Tensor:
        return cache.keep_active(features) + self._up(codes, step, cache.schedule.scales[-1])

    def decode(self, features: Tensor) -> DecodedImages:
        pixels = torch.einsum("pc,nchw->nphw", self._to_pixels, features).tanh()
        return DecodedImages(F.interpolate(pixels, scale_factor=PIXELS_PER_CELL, mode="nearest"))

    def decode_preview(self, features: Tensor, schedule: Schedule, step: int) -> DecodedImages:
        return self.decode(_pooled(features, schedule.scales[step - 1]))

    def encode_image(self, image: NDArray[np.uint8], schedule: Schedule, num_steps: int) -> StyleTokens:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
        extent = schedule.scales[-1]
        residual = torch.einsum("cp,nphw->nchw", self._from_pixels.double(), _pooled(pixels, extent)).float()
        codes = []
        for step, scale in enumerate(schedule.scales[:num_steps], start=1):
            wanted = _pooled(residual, scale).flatten(2).mT  # [1, tokens, channels]
            codes.append(self._codes(self._nearest(wanted), scale))
            residual = residual - self._up(codes[-1], step, extent)
        return self.tokens_of_codes(codes)

    def tokens_of_codes(self, codes: Sequence[Tensor]) -> StyleTokens:
        indices = torch.cat([self._nearest(code.flatten(2).mT)[0] for code in codes])
        return StyleTokens(bytes(indices.tolist()))

    def codes_of_tokens(self, tokens: StyleTokens, schedule: Schedule, num_steps: int) -> Sequence[Tensor]:
        grids = schedule.scales[:num_steps]
        (picture,) = _pictures(tokens, grids)
        parts = torch.tensor(list(picture)).split([grid.num_tokens for grid in grids])
        return [self._codes(part[None], grid) for part, grid in zip(parts, grids, strict=True)]

    def combine_tokens(
        self, tokens: Sequence[StyleTokens], schedule: Schedule, num_steps: int
    ) -> StyleTokens:
        grids = schedule.scales[:num_steps]
        pictures = sorted(picture for part in tokens for picture in _pictures(part, grids))
        return StyleTokens(b"".join(pictures), len(pictures))

    def decompose(
        self, tokens: StyleTokens, read_at: Schedule, num_steps: int, drawn_at: Schedule
    ) -> StyleFeature:
        grids, extent = read_at.scales[:num_steps], drawn_at.scales[-1]
        feature = self._feature(tokens, grids, extent)
        _, values, directions = torch.linalg.svd(feature.flatten(1).T, full_matrices=False)
        return StyleFeature(tokens, grids, extent, values.numpy(), directions.numpy())

    def style_feature(self, style: StyleFeature) -> Tensor:
        return self._feature(style.tokens, style.grids, style.extent)

    def style_principal(self, style: StyleFeature, alpha: float) -> Tensor:
        feature = self.style_feature(style)
        return principal(feature, alpha, directions_of(feature[None])[0])

    def style_agreement(self, style: StyleFeature) -> float | None:
        first, *others = _pictures(style.tokens, style.grids)
        alike = [a == b for other in others for a, b in zip(first, other, strict=True)]
        return 2 * sum(alike) / len(alike) - 1 if alike else None

    def _codes(self, indices: Tensor, scale: Scale) -> Tensor:
        """[paths, channels, h, w] of indices [paths, tokens]."""
        return self._codebook[indices].mT.unflatten(-1, (scale.height, scale.width))

    def _nearest(self, vectors: Tensor) -> Tensor:
        return torch.cdist(vectors, self._codebook[None]).argmin(-1)

    def _up(self, codes: Tensor, step: int, extent: Scale) -> Tensor:
        size = (extent.height, extent.width)
        wide = F.interpolate(codes, size=size, mode="nearest")
        mixed = torch.stack([torch.einsum("dc,chw->dhw", self._mix[step - 1], one) for one in wide])
        return mixed + self._bias[step - 1]

    def _feature(self, tokens: StyleTokens, grids: Sequence[Scale], extent: Scale) -> Tensor:
        """The mean feature of the pictures, [channels, H, W]."""
        pictures = _pictures(tokens, grids)
        total = torch.zeros(CHANNELS, extent.height, extent.width)
        for picture in pictures:
            parts = torch.tensor(list(picture)).split([grid.num_tokens for grid in grids])
            for step, (grid, part) in enumerate(zip(grids, parts, strict=True), start=1):
                total += self._up(self._codes(part[None], grid), step, extent)[0]
        return total / len(pictures)


def _pooled(planes: Tensor, scale: Scale) -> Tensor:
    return F.adaptive_avg_pool2d(planes, (scale.height, scale.width))


def _pictures(tokens: StyleTokens, grids: Sequence[Scale]) -> list[bytes]:
    """The code indices of each picture. ValueError when these bytes are not of such a schedule."""
    length = sum(grid.num_tokens for grid in grids)
    if len(tokens.packed) != length * tokens.num_images or max(tokens.packed) >= NUM_CODES:
        raise ValueError(f"these are not {tokens.num_images} pictures of {length} codes")
    starts = range(0, len(tokens.packed), length)
    return [tokens.packed[start : start + length] for start in starts]
