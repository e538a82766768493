"""Self-attention whose weights are computed once for a content row and for all rows that are corrected by it.

Structural Attention Correction, of the paper: a corrected generation row attends with the queries and
keys of its content row, and with its own values. Where a scale attends to those before it, their keys and
values are cached; where it attends to itself alone, the content row's queries and keys of the same step are
all that is needed.

The one seam between the models and the kernels of a device. Shapes: queries [own rows, tokens, heads, head
width]; keys [own rows, heads, known tokens, head width]; values [rows, heads, known tokens, head width]. Own
rows are those that compute queries and keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from service.model.shared_attention import attend, is_shareable, shared_attention


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """One layer's keys and values of a batch, allocated once for a schedule, and where this step's go."""

    keys: Tensor  # [own rows, heads, tokens of the schedule, head width]
    values: Tensor  # [rows, heads, tokens of the schedule, head width]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class StepAttention:
    """How the rows of one layer attend at one step."""

    sources: tuple[int, ...]  # a row of the result: the own row whose queries and keys it uses
    source_rows: Tensor | None = None  # the same on the device; None where each row is its own
    groups: Tensor | None = None  # `row_groups` of the sources; None where each row is its own
    kept: Tensor | None = None  # the rows of the result among the cached ones; None: all
    cached: CachedLayer | None = None  # None: the scale attends to itself alone
    is_fused: bool = False  # whether torch's fused kernels attend, which compilers know

    def attend(self, queries: Tensor, keys: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Attend with new keys and values, [rows, tokens, heads, head width]: [rows, tokens, channels].

        The values come in parts that make up the rows of the result. What is cached gets both first.
        """
        if self.is_fused and self.groups is not None and is_shareable(queries):
            return self._shared(queries, keys, values, self.groups)
        if self.cached is None:
            known_keys, known_values = keys.transpose(1, 2), _joined(values).transpose(1, 2)
            if not self.is_fused:  # a head's rows must be neighbours: oneDNN is slow on others
                known_keys, known_values = known_keys.contiguous(), known_values.contiguous()
        else:
            known_keys, known_values = self._extended(self.cached, keys, values)
        if self.is_fused:
            return attend_fused(queries, known_keys, known_values, self.source_rows)
        return attend(queries, known_keys, known_values, self.sources)

    def _shared(self, queries: Tensor, keys: Tensor, values: Sequence[Tensor], groups: Tensor) -> Tensor:
        """Each own row's scores once, for all rows that use them."""
        assert self.source_rows is not None, "groups come with the sources on the device"
        # Not of `sources`, whose number a compiler would write into its code.
        own = torch.arange(self.source_rows.shape[0], device=queries.device)
        if self.cached is None:
            known = _joined(values).transpose(1, 2)
            return shared_attention(queries, keys.transpose(1, 2), known, groups, own, queries.shape[1])
        self._extend(self.cached, keys, values)
        rows = own if self.kept is None else self.kept
        return shared_attention(queries, self.cached.keys, self.cached.values, groups, rows, self.cached.end)

    def _extended(self, layer: CachedLayer, keys: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens so far, the new ones included."""
        self._extend(layer, keys, values)
        known = layer.values if self.kept is None else layer.values[self.kept]
        return layer.keys[:, :, : layer.end], known[:, :, : layer.end]

    def _extend(self, layer: CachedLayer, keys: Tensor, values: Sequence[Tensor]) -> None:
        now = slice(layer.start, layer.end)
        layer.keys[:, :, now] = keys.transpose(1, 2)
        if self.kept is not None:
            layer.values[:, :, now].index_copy_(0, self.kept, values[0].transpose(1, 2))
        elif self.is_fused:
            # At once: a compiler copies the whole cache for each part that goes into a view of a view.
            layer.values[:, :, now] = _joined(values).transpose(1, 2)
        else:
            new = layer.values[:, :, now].split([len(part) for part in values])
            for part, rows in zip(values, new, strict=True):
                rows.copy_(part.transpose(1, 2))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def attend_fused(queries: Tensor, keys: Tensor, values: Tensor, source_rows: Tensor | None) -> Tensor:
    """`attend` by torch's fused kernels; `source_rows` are its sources, or None where each row is its own."""
    queries = queries.transpose(1, 2)
    if source_rows is not None:
        # What `shared_attention` does not take: torch's kernels cost a copy of the keys.
        queries, keys = queries[source_rows], keys[source_rows]
    return F.scaled_dot_product_attention(queries, keys, values, scale=1.0).transpose(1, 2).flatten(2)
