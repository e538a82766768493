"""TextCache: each prompt encoded once, those used last kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cachetools import LRUCache

from service.model.engine.types import Text

# Beside weights of gigabytes; 16 of the longest prompts of a 2B model, or some thousand of nano's.
MAX_BYTES = 64 * 2**20


class TextCache:
    """A bounded cache of encoded prompts. A prompt's encoding does not depend on when it came."""

    def __init__(
        self, encode: Callable[[Sequence[str]], Sequence[Text]], *, max_bytes: int = MAX_BYTES
    ) -> None:
        self._encode = encode
        self._texts: LRUCache[str, Text] = LRUCache(max_bytes, getsizeof=lambda text: text.num_bytes)

    def texts_of(self, prompts: Iterable[str]) -> dict[str, Text]:
        """The text of each prompt; those that are not cached are encoded together."""
        wanted = sorted(set(prompts))
        found = {prompt: self._texts[prompt] for prompt in wanted if prompt in self._texts}
        new = [prompt for prompt in wanted if prompt not in found]
        if new:
            encoded = dict(zip(new, self._encode(new), strict=True))
            found |= encoded
            for prompt, text in encoded.items():
                if text.num_bytes <= self._texts.maxsize:
                    self._texts[prompt] = text
        return found
