"""Self-attention whose weights are computed once for a row and for all rows that are corrected by it.

Structural Attention Correction (paper, section 4.3): a corrected generation row attends with the queries and
keys of its content row, and with its own values. In the causal variant keys and values of earlier scales are
cached; in the other one a scale attends to itself alone, and the content row's queries and keys of the same
step are all that is needed.

Shapes: queries [own rows, tokens, heads, head width]; keys [own rows, heads, known tokens, head width];
values [rows, heads, known tokens, head width]. Own rows are those that compute queries and keys.
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
# Queries whose scores are made at once otherwise, head by head.
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

        The values come in parts that make up the rows of the result. The causal variant writes both into
        the cache first.
        """
        keys = keys.transpose(1, 2)
        new_values = (values[0] if len(values) == 1 else torch.cat(list(values))).transpose(1, 2)
        if self.cached is not None:
            keys, new_values = self._extended(self.cached, keys, new_values)
        if self.is_fused:
            return attend_fused(queries, keys, new_values, self.source_rows)
        return attend(queries, keys, new_values, self.sources)

    def _extended(self, layer: CachedLayer, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens so far, the new ones included."""
        now = slice(layer.start, layer.end)
        layer.keys[:, :, now] = keys
        if self.kept is None:
            layer.values[:, :, now] = values
            return layer.keys[:, :, : layer.end], layer.values[:, :, : layer.end]
        layer.values[:, :, now].index_copy_(0, self.kept, values)
        return layer.keys[:, :, : layer.end], layer.values[self.kept, :, : layer.end]


def attend_fused(queries: Tensor, keys: Tensor, values: Tensor, source_rows: Tensor | None) -> Tensor:
    """`attend` by torch's fused kernels; `source_rows` are its sources, or None where each row is its own."""
    queries = queries.transpose(1, 2)
    if source_rows is not None:
        queries, keys = queries[source_rows], keys[source_rows]
    return F.scaled_dot_product_attention(queries, keys, values, scale=1.0).transpose(1, 2).flatten(2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, sources: Sequence[int]) -> Tensor:
    """[rows, tokens, channels]: row i attends with the queries and keys of own row `sources[i]`.

    Queries carry their scale. Every product is of one row, so that a row rounds alike alone and in any batch.
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
