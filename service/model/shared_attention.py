"""Attention weights that several rows share, as one operation that compilers take as it is.

Of an own row and the rows that follow it (Structural Attention Correction): scores once, a result for each.
On a GPU it is a Triton kernel (`shared_attention_triton`), elsewhere the plain form `attend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from service.model.device.linear import linear
from service.model.device.transfer import index_tensor

_HAS_TRITON = find_spec("triton") is not None  # CUDA builds of torch bring it on Linux alone
# Rows of one program of the kernel: more results of 64 x 128 fp32 do not fit into its registers.
MAX_TOGETHER = 4
# So many scores, 1 MB of fp32, are made and used for all heads at once: calls would cost more than the work.
_FEW_SCORES = 2**18
# Queries whose scores are made at once otherwise, head by head: against 2521 keys 2.6 MB, which a cache holds
# until every row has used them, and enough rows for the matrix kernels.
_CHUNK = 256


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


def row_groups(sources: Sequence[int], device: torch.device) -> Tensor:
    """[groups, 1 + rows] int64: an own row, and up to MAX_TOGETHER rows whose source it is.

    `sources` are, of each row of the result, the own row whose queries and keys it uses. Groups of an own row
    are as even as can be; -1 is no row. There are two groups at least: compilers specialise on a size of 1.
    """
    groups: list[list[int]] = []
    for own in dict.fromkeys(sources):
        rows = [row for row, source in enumerate(sources) if source == own]
        num_groups = -(-len(rows) // MAX_TOGETHER)
        groups += [[own, *rows[start::num_groups]] for start in range(num_groups)]
    if len(groups) == 1:
        groups.append([groups[0][0]])
    together = max(map(len, groups))
    padded = [group + [-1] * (together - len(group)) for group in groups]
    flat = [row for group in padded for row in group]
    return index_tensor(flat, device).view(len(groups), together)


def is_shareable(queries: Tensor) -> bool:
    """Whether the kernel takes queries [own rows, tokens, heads, head width].

    Heads of a power of two that fit the shared memory of all GPUs: up to 128 channels, in fp32 64.
    """
    if queries.device.type == "cuda" and not _HAS_TRITON:
        return False
    head_width = queries.shape[-1]
    widest = 64 if queries.dtype == torch.float32 else 128
    return head_width in (16, 32, 64, 128) and head_width <= widest


@torch.library.custom_op("atelier::shared_attention", mutates_args=())
def shared_attention(
    queries: Tensor, keys: Tensor, values: Tensor, groups: Tensor, value_rows: Tensor, num_known: int
) -> Tensor:
    """Attention [rows, tokens, channels]: row i reads the values of row `value_rows[i]`.

    Queries [own rows, tokens, heads, head width] carry their scale. Of keys [own rows, heads, room, head
    width] and values [value rows, heads, room, head width] the first `num_known` tokens are known. `groups`
    are `row_groups`'.
    """
    source_of = {row: own for own, *rows in groups.tolist() for row in rows if row >= 0}
    sources = [source_of[row] for row in range(len(value_rows))]
    return attend(queries, keys[:, :, :num_known], values[value_rows, :, :num_known], sources)


@shared_attention.register_fake
def _(
    queries: Tensor, keys: Tensor, values: Tensor, groups: Tensor, value_rows: Tensor, num_known: int
) -> Tensor:
    _, tokens, heads, head_width = queries.shape
    return queries.new_empty(value_rows.shape[0], tokens, heads * head_width)


@shared_attention.register_kernel("cuda")
def _(
    queries: Tensor, keys: Tensor, values: Tensor, groups: Tensor, value_rows: Tensor, num_known: int
) -> Tensor:
    from service.model.shared_attention_triton import launch  # not every machine has Triton

    return launch(queries, keys, values, groups, value_rows, num_known)
