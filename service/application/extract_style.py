"""Extraction: the model as the style store sees it, which reads styles on the model thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.batching.batcher import Batcher
from service.media.images import Picture
from service.metrics import Metrics
from service.model.engine.generator import Generator
from service.model.schedule import Size
from service.model.style.feature import StyleFeature
from service.model.style.tokens import StyleTokens
from service.stage_timer import StageTimer
from service.styles.extractor import StyleText


@dataclass(frozen=True, slots=True)
class PixelsToRead:
    """A style image to take the feature of, for images of one size."""

    pixels: NDArray[np.uint8]  # [height, width, 3]
    size: Size

    def read(self, generator: Generator) -> StyleTokens:
        return generator.read_tokens(self.pixels, self.size)


@dataclass(frozen=True, slots=True)
class WordsToRead:
    """Text to imagine a style from."""

    words: StyleText
    size: Size

    def read(self, generator: Generator) -> StyleTokens:
        return generator.tokens_of_text(self.words.text, self.words.seed)


ToRead = PixelsToRead | WordsToRead


@dataclass(frozen=True, slots=True)
class Extracted:
    """A style feature, and the seconds of the model thread that it took, by stage."""

    feature: StyleFeature
    stage_seconds: Mapping[str, float]


def extracting_on(
    generator: Generator, metrics: Metrics, clock: Callable[[], float]
) -> Callable[[Sequence[ToRead], Callable[[], bool]], Sequence[Extracted]]:
    """What the extraction batcher runs on the model thread."""

    def extract(each: ToRead) -> Extracted:
        stages = StageTimer(clock)
        with stages.stage("extract"):
            bits = each.read(generator)
        with stages.stage("decompose"):
            feature = generator.decompose(bits, each.size)
        for stage, seconds in stages.seconds.items():
            metrics.stage_duration_seconds.labels(stage=stage).observe(seconds)
        return Extracted(feature, stages.seconds)

    return lambda inputs, cancelled: [extract(each) for each in inputs]


class Extraction:
    """A StyleExtractor (styles/reader.py). Pictures are unpacked in the `decoding` pool."""

    def __init__(self, generator: Generator, batcher: Batcher[ToRead, Extracted], decoding: Executor) -> None:
        self._generator = generator
        self._batcher = batcher
        self._decoding = decoding
        self.name = generator.name
        self.fingerprint = generator.fingerprint
        self.style_size = generator.style_size

    def schedule_name(self, size: Size) -> str:
        return self._generator.schedule_name(size)

    def restore(self, bits: StyleTokens, size: Size) -> StyleFeature:
        return self._generator.restore_style(bits, size)

    def combine(self, features: Sequence[StyleFeature], size: Size) -> StyleFeature:
        tokens = self._generator.combine_tokens([feature.tokens for feature in features], size)
        return self._generator.decompose(tokens, size)

    def check_tokens(self, tokens: StyleTokens) -> None:
        self._generator.combine_tokens([tokens], self.style_size)

    def agreement(self, feature: StyleFeature) -> float | None:
        return self._generator.backbone.style_agreement(feature)

    async def extract(self, picture: Picture, size: Size, stages: StageTimer) -> StyleFeature:
        with stages.stage("picture"):
            pixels = await asyncio.get_running_loop().run_in_executor(self._decoding, picture.pixels)
        return await self._extracted(PixelsToRead(pixels, size), stages)

    async def extract_text(self, words: StyleText, stages: StageTimer) -> StyleFeature:
        return await self._extracted(WordsToRead(words, self.style_size), stages)

    async def _extracted(self, each: ToRead, stages: StageTimer) -> StyleFeature:
        began = stages.clock()
        extracted = await self._batcher.submit([each])[0].future
        stages.waited(stages.clock() - began, then=extracted.stage_seconds)
        return extracted.feature
