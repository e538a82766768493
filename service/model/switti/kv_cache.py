"""Keys and values that the causal variant keeps between steps; the other variant keeps none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.model.switti.attention import CachedLayer
from service.model.switti.config import TransformerConfig


@dataclass(slots=True)
class KeyValueCache:
    """Of every layer of one batch. The rows in use are a prefix; own rows, which have keys, come first."""

    keys: list[Tensor]  # a layer: [own rows, heads, tokens of the schedule, head width]
    values: list[Tensor]  # a layer: [rows, heads, tokens of the schedule, head width]
    num_tokens: int = 0  # computed so far

    @classmethod
    def empty(
        cls,
        config: TransformerConfig,
        *,
        num_own: int,
        num_rows: int,
        num_tokens: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> KeyValueCache:
        """Room for `num_tokens` of a schedule; no room where the variant caches nothing."""
        num_layers = config.depth if config.is_causal else 0

        def allocated(rows: int) -> list[Tensor]:
            shape = (rows, config.num_heads, num_tokens, config.head_width)
            return [torch.empty(shape, device=device, dtype=dtype) for _ in range(num_layers)]

        return cls(keys=allocated(num_own), values=allocated(num_rows))

    def layer(self, index: int, num_own: int, num_rows: int, num_new: int) -> CachedLayer | None:
        """One layer at a step of `num_new` tokens, for the first rows; None where nothing is cached."""
        if not self.keys:
            return None
        end = self.num_tokens + num_new
        return CachedLayer(self.keys[index][:num_own], self.values[index][:num_rows], self.num_tokens, end)

    def fork(self, sources: Sequence[int]) -> None:
        """Let row i start from what row `sources[i]` has; a row that is its own source stays."""
        done = slice(0, self.num_tokens)
        for keys, values in zip(self.keys, self.values, strict=True):
            for row, source in enumerate(sources):
                if row == source:
                    continue
                values[row, :, done] = values[source, :, done]
                if row < len(keys):
                    keys[row, :, done] = keys[source, :, done]
