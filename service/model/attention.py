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

from service.model.device.linear import linear

# So many scores, 1 MB of fp32, are made and used for all heads at once: calls would cost more than the work.
_FEW_SCORES = 2**18
# Queries whose scores are made at once otherwise, head by head: against 2521 keys 2.6 MB, which a cache holds
# until every row has used them, and enough rows for the matrix kernels.
_CHUNK = 256


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
    kept: Tensor | None = None  # the rows of the result among the cached ones; None: all
    cached: CachedLayer | None = None  # None: the scale attends to itself alone
    is_fused: bool = False  # whether torch's fused kernels attend, which compilers know

    def attend(self, queries: Tensor, keys: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Attend with new keys and values, [rows, tokens, heads, head width]: [rows, tokens, channels].

        The values come in parts that make up the rows of the result. What is cached gets both first.
        """
        if self.cached is None:
            known_keys, known_values = keys.transpose(1, 2), _joined(values).transpose(1, 2)
            if not self.is_fused:  # a head's rows must be neighbours: oneDNN is slow on others
                known_keys, known_values = known_keys.contiguous(), known_values.contiguous()
        else:
            known_keys, known_values = self._extended(self.cached, keys, values)
        if self.is_fused:
            return attend_fused(queries, known_keys, known_values, self.source_rows)
        return attend(queries, known_keys, known_values, self.sources)

    def _extended(self, layer: CachedLayer, keys: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens so far, the new ones included."""
        now = slice(layer.start, layer.end)
        layer.keys[:, :, now] = keys.transpose(1, 2)
        new, known = layer.values[:, :, now], layer.values
        if self.kept is not None:
            new.index_copy_(0, self.kept, values[0].transpose(1, 2))
            known = layer.values[self.kept]
        elif self.is_fused:
            # At once: a compiler copies the whole cache for each part that goes into a view of a view.
            layer.values[:, :, now] = _joined(values).transpose(1, 2)
        else:
            for part, rows in zip(values, new.split([len(part) for part in values]), strict=True):
                rows.copy_(part.transpose(1, 2))
        return layer.keys[:, :, : layer.end], known[:, :, : layer.end]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def attend_fused(queries: Tensor, keys: Tensor, values: Tensor, source_rows: Tensor | None) -> Tensor:
    """`attend` by torch's fused kernels; `source_rows` are its sources, or None where each row is its own."""
    queries = queries.transpose(1, 2)
    if source_rows is not None:
        # Not measured on a GPU: no kernel of torch takes one set of weights for several values, and a copy of
        # the keys is what its fused ones cost.
        queries, keys = queries[source_rows], keys[source_rows]
    return F.scaled_dot_product_attention(queries, keys, values, scale=1.0).transpose(1, 2).flatten(2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, sources: Sequence[int]) -> Tensor:
    """[rows, tokens, channels]: row i attends with the queries and keys of own row `sources[i]`.

    Queries carry their scale. Every product is of one row, so that a row rounds alike alone and in any batch.
    Where one row follows another this takes 0.78 of the time of torch's fused kernel, which computes the
    weights twice (1024 queries, 2521 keys, 4 heads of 128 channels; 0.76 for 256 and 521).
    """
    out = queries.new_empty(len(values), *queries.shape[1:])
    num_tokens, num_heads = out.shape[1:3]
    for own, (query, key) in enumerate(zip(queries.transpose(1, 2), keys, strict=True)):
        rows = [row for row, source in enumerate(sources) if source == own]
        if num_heads * num_tokens * key.shape[1] <= _FEW_SCORES:
            weights = torch.bmm(query, key.mT).softmax(-1)  # [heads, tokens, known tokens]
            for row in rows:
                out[row] = torch.bmm(weights, values[row]).transpose(0, 1)
            continue
        for head in range(num_heads):
            for start in range(0, num_tokens, _CHUNK):
                part = slice(start, start + _CHUNK)
                weights = linear(query[head, part], key[head], is_large=True)  # [tokens, known tokens]
                torch.softmax(weights, -1, out=weights)
                for row in rows:
                    out[row, part, head] = linear(weights, values[row, head].T, is_large=True)
    return out.flatten(2)
