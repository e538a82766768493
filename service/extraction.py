"""Extraction: the model as the style store sees it, which reads styles on the model thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.batcher import Batcher
from service.media import Picture
from service.model.backbone import Size
from service.model.bits import StyleBits
from service.model.generator import Generator
from service.model.style import StyleFeature
from service.styles.reader import Words


@dataclass(frozen=True, slots=True)
class PixelsToRead:
    """A style image to take the feature of, for images of one size."""

    pixels: NDArray[np.uint8]  # [height, width, 3]
    size: Size

    def read(self, generator: Generator) -> StyleFeature:
        return generator.extract_style(self.pixels, self.size)


@dataclass(frozen=True, slots=True)
class WordsToRead:
    """Words to imagine a style from."""

    words: Words
    size: Size

    def read(self, generator: Generator) -> StyleFeature:
        return generator.imagine_style(self.words.text, self.words.seed)


ToRead = PixelsToRead | WordsToRead


def reading_on(
    generator: Generator,
) -> Callable[[Sequence[ToRead], Callable[[], bool]], Sequence[StyleFeature]]:
    """What the extraction batcher runs on the model thread."""
    return lambda inputs, wanted: [each.read(generator) for each in inputs]


class Extraction:
    """A StyleReader (styles/reader.py). Pictures are unpacked in the `decoding` pool."""

    def __init__(
        self, generator: Generator, batcher: Batcher[ToRead, StyleFeature], decoding: Executor
    ) -> None:
        self._generator = generator
        self._batcher = batcher
        self._decoding = decoding
        self.name = generator.name
        self.fingerprint = generator.fingerprint
        self.style_size = generator.style_size
        self.style_shape = generator.style_shape

    def schedule_name(self, size: Size) -> str:
        return self._generator.schedule_name(size)

    def restore(self, bits: StyleBits, size: Size) -> StyleFeature:
        return self._generator.restore_style(bits, size)

    async def extract(self, picture: Picture, size: Size) -> StyleFeature:
        pixels = await asyncio.get_running_loop().run_in_executor(self._decoding, picture.pixels)
        return await self._batcher.submit([PixelsToRead(pixels, size)])[0].future

    async def imagine(self, words: Words) -> StyleFeature:
        return await self._batcher.submit([WordsToRead(words, self.style_size)])[0].future
