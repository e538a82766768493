"""How many bytes of tensors live at once, counted on the meta device: true sizes at no cost."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LivePeak(TorchDispatchMode):
    """While it is entered, `peak` is the most bytes of tensors that operations made and nobody dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, torch.Tensor):
                self._seen.add(given.untyped_storage()._cdata)
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor):
                self._follow(made.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        identity = storage._cdata
        if identity in self._seen:
            return
        self._seen.add(identity)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._dropped, identity, storage.nbytes())

    def _dropped(self, identity: int, num_bytes: int) -> None:
        self._seen.discard(identity)
        self.live -= num_bytes
