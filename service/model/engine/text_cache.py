"""TextCache: prompts encoded once, the ones used last kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from service.model.engine.types import Text

# Beside weights of gigabytes; 16 of the longest prompts of a 2B model, or some thousand of nano's.
MAX_BYTES = 64 * 2**20


class TextCache:
    """A bounded cache of encoded prompts. What becomes of a prompt does not depend on when it came."""

    def __init__(
        self, encode: Callable[[Sequence[str]], Sequence[Text]], *, max_bytes: int = MAX_BYTES
    ) -> None:
        self._encode = encode
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._texts: OrderedDict[str, Text] = OrderedDict()

    def of(self, prompts: Iterable[str]) -> dict[str, Text]:
        """The text of each prompt; those that are not known yet are encoded together."""
        wanted = sorted(set(prompts))
        new = [prompt for prompt in wanted if prompt not in self._texts]
        found = {prompt: self._texts[prompt] for prompt in wanted if prompt in self._texts}
        if new:
            found |= dict(zip(new, self._encode(new), strict=True))
        for prompt in wanted:
            self._keep(prompt, found[prompt])
        return found

    def _keep(self, prompt: str, text: Text) -> None:
        if prompt not in self._texts:
            self._num_bytes += text.features.nbytes
        self._texts[prompt] = text
        self._texts.move_to_end(prompt)
        while self._num_bytes > self._max_bytes:
            _, dropped = self._texts.popitem(last=False)
            self._num_bytes -= dropped.features.nbytes
