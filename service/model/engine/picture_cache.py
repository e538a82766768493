"""PictureCache: the tokens of pictures that are edited, each read once, those used last kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import numpy as np
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
        self._max_bytes = max_bytes
        self._tokens: OrderedDict[tuple[str, Size], StyleTokens] = OrderedDict()  # those used last at the end

    def tokens_of(self, pictures: Iterable[ContentPicture], size: Size) -> dict[ContentPicture, StyleTokens]:
        """The tokens of each picture, over all steps; those that are not cached are read now."""
        found = {}
        for picture in dict.fromkeys(pictures):
            key = picture.digest, size
            if key not in self._tokens:
                self._tokens[key] = self._read(picture.pixels, size)
            self._tokens.move_to_end(key)
            found[picture] = self._tokens[key]
            while sum(len(tokens.packed) for tokens in self._tokens.values()) > self._max_bytes:
                self._tokens.popitem(last=False)
        return found
