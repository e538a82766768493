"""TextCache: each prompt encoded once, those used last kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from service.model.engine.types import Text

# Beside weights of gigabytes; 16 of the longest prompts of a 2B model, or some thousand of nano's.
MAX_BYTES = 64 * 2**20


class TextCache:
    """A bounded cache of encoded prompts. A prompt's encoding does not depend on when it came."""

    def __init__(
        self, encode: Callable[[Sequence[str]], Sequence[Text]], *, max_bytes: int = MAX_BYTES
    ) -> None:
        self._encode = encode
        self._max_bytes = max_bytes
        self._texts: OrderedDict[str, Text] = OrderedDict()  # those used last at the end

    def texts_of(self, prompts: Iterable[str]) -> dict[str, Text]:
        """The text of each prompt; those that are not cached are encoded together."""
        wanted = sorted(set(prompts))
        found = {prompt: self._texts[prompt] for prompt in wanted if prompt in self._texts}
        for prompt in found:
            self._texts.move_to_end(prompt)
        new = [prompt for prompt in wanted if prompt not in found]
        if new:
            encoded = dict(zip(new, self._encode(new), strict=True))
            found |= encoded
            self._texts |= {
                prompt: text for prompt, text in encoded.items() if text.num_bytes <= self._max_bytes
            }
            while sum(text.num_bytes for text in self._texts.values()) > self._max_bytes:
                self._texts.popitem(last=False)
        return found
