"""PictureCache: the tokens of pictures that are edited, each read once, those used last kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from service.model.engine.types import ContentPicture
from service.model.schedule import Size
from service.model.style.tokens import StyleTokens

MAX_BYTES = 16 * 2**20  # 400 pictures at 1024 x 1024, whose tokens are 42 kB; 40,000 of nano's


class PictureCache:
    """A bounded cache by the digest of a picture and the size that it is read at."""

    def __init__(
        self, read: Callable[[NDArray[np.uint8], Size], StyleTokens], *, max_bytes: int = MAX_BYTES
    ) -> None:
        self._read = read
        self._tokens = LRUCache[tuple[str, Size], StyleTokens](max_bytes, getsizeof=lambda it: len(it.packed))

    def tokens_of(self, pictures: Iterable[ContentPicture], size: Size) -> dict[ContentPicture, StyleTokens]:
        """The tokens of each picture, over all steps; those that are not cached are read now."""
        found = {}
        for picture in dict.fromkeys(pictures):
            tokens = self._tokens.get((picture.digest, size))
            if tokens is None:
                tokens = self._read(picture.pixels, size)
                if len(tokens.packed) <= self._tokens.maxsize:
                    self._tokens[picture.digest, size] = tokens
            found[picture] = tokens
        return found
