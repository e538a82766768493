"""Style stores for tests: real features of real pictures, on a real server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from redis.asyncio import Redis

from service.media.images import Picture, read_picture
from service.metrics import Metrics
from service.model.infinity.style import agreement, combine, decompose, pack
from service.model.schedule import Scale, Size
from service.model.style.feature import StyleFeature
from service.model.style.tokens import StyleTokens
from service.stage_timer import StageTimer
from service.storage.schema import NO_TENANT, Quota
from service.styles.record import StyleText
from service.styles.store import StyleStore

SMALL, LARGE = Size(64, 64), Size(128, 128)
GRIDS = (Scale(1, 1), Scale(2, 2), Scale(4, 4))
STYLE_SHAPE = (sum(grid.num_tokens for grid in GRIDS), 16)  # tokens and channels


async def keys_of_styles(redis: Redis) -> list[bytes]:
    """All keys but those that remember for a while where a deleted style was in the list."""
    keys: list[Any] = await redis.keys()
    return [key for key in keys if not key.startswith(b"atelier:removed:")]


def picture_of(seed: int) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    upload = io.BytesIO()
    Image.fromarray(pixels).save(upload, "PNG")
    return read_picture(upload.getvalue(), max_bytes=1 << 20, max_pixels=1 << 20)


def feature_of(picture: Picture, size: Size) -> StyleFeature:
    """Decomposed for real, from bits that the picture and the size decide."""
    return _decomposed([int(picture.digest[:15], 16), size.width])


def feature_of_text(text: StyleText, fingerprint: str) -> StyleFeature:
    """Decomposed for real, from bits that the text, the seed and the model decide."""
    return _decomposed([*text.text.encode(), text.seed, int(fingerprint, 16)])


def mean_of(features: Sequence[StyleFeature]) -> StyleFeature:
    first = features[0]
    tokens = combine([feature.tokens for feature in features], *STYLE_SHAPE)
    return decompose(tokens, first.grids, first.extent, STYLE_SHAPE[1])


def _decomposed(seed: list[int]) -> StyleFeature:
    bits = np.random.default_rng(seed).integers(0, 2, STYLE_SHAPE, dtype=np.uint8)
    return decompose(pack(bits), GRIDS, Scale(8, 8), STYLE_SHAPE[1])


class Extractor:
    """A model that remembers what was asked of it, and that waits while its gate is closed."""

    style_size = SMALL

    def __init__(self, name: str = "tiny", fingerprint: str = "0123456789abcdef") -> None:
        self.name, self.fingerprint = name, fingerprint
        self.extracted_texts: list[StyleText] = []
        self.seen: list[tuple[Picture, Size]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()
        self.num_cancelled = 0

    def schedule_name(self, size: Size) -> str:
        return str(size)

    def restore(self, bits: StyleTokens, size: Size) -> StyleFeature:
        return decompose(bits, GRIDS, Scale(size.height // 8, size.width // 8), STYLE_SHAPE[1])

    def check_tokens(self, tokens: StyleTokens) -> None:
        combine([tokens], *STYLE_SHAPE)

    def combine(self, features: Sequence[StyleFeature], size: Size) -> StyleFeature:
        return mean_of(features)

    def agreement(self, feature: StyleFeature) -> float | None:
        return agreement(feature)

    async def extract_text(self, text: StyleText, stages: StageTimer) -> StyleFeature:
        self.extracted_texts.append(text)
        return feature_of_text(text, self.fingerprint)

    async def extract(self, picture: Picture, size: Size, stages: StageTimer) -> StyleFeature:
        self.seen.append((picture, size))
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        return feature_of(picture, size)


class Clock:
    def __init__(self, now: float = 1_700_000_000.5) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Replica:
    """One process of the service, as far as its store is concerned: nothing shared but Redis."""

    def __init__(
        self,
        redis: Redis,
        *,
        fingerprint: str = "0123456789abcdef",
        max_features: int = 512,
        quota: Quota | None = None,
    ) -> None:
        self.extractor, self.metrics, self.clock = Extractor(fingerprint=fingerprint), Metrics(), Clock()
        self.store = StyleStore(
            redis,
            extractor=self.extractor,
            metrics=self.metrics,
            max_cached_features=max_features,
            clock=self.clock,
        ).of(NO_TENANT, quota)

    def count(self, result: str) -> float | None:
        return self.metrics.registry.get_sample_value("atelier_style_features_total", {"result": result})

    def num_errors(self) -> float | None:
        return self.metrics.registry.get_sample_value("atelier_store_errors_total")
