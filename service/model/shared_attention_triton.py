"""The Triton kernel of `shared_attention`: FlashAttention's loop over keys, with one accumulator a row.

Written for Triton 3.6 to 3.9. Nothing here is chosen by measurement: blocks are as large as registers and
shared memory of all of sm_80 to sm_90 hold, which tests/model/test_shared_attention.py asserts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.compiler import ASTSource

BLOCK_QUERIES, BLOCK_KEYS = 64, 32
NUM_STAGES = 2
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def shared_attention_kernel(  # noqa: C901  what is constant is no branch
    queries, keys, values, groups, value_rows, out,
    query_row, query_token, query_head,
    key_row, key_head, key_token,
    value_row, value_head, value_token,
    out_row, out_token, out_head,
    num_tokens, num_known,
    TOGETHER: tl.constexpr, HEAD_WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One program: a block of queries of one head of one own row, for one group of the rows that use it.

    Strides are of [row, token, head] each; a head's channels are neighbours, and distances within a row fit
    32 bits, which spares registers. With WIDEN the factors of products are widened to fp32, which changes
    nothing but speed: Triton's interpreter multiplies the bits of bf16.
    """
    head = tl.program_id(1)
    group = groups + tl.program_id(2) * (1 + TOGETHER)
    own = tl.load(group)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, HEAD_WIDTH)
    n = tl.arange(0, BLOCK_N)
    is_query = m[:, None] < num_tokens
    at_query = queries + own * query_row + head.to(tl.int64) * query_head
    q = tl.load(at_query + m[:, None] * query_token + d[None, :], mask=is_query, other=0.0)
    if WIDEN:
        q = q.to(tl.float32)
    at_key = keys + own * key_row + head.to(tl.int64) * key_head
    at_value = values + head.to(tl.int64) * value_head
    to0 = tl.load(group + 1)
    to1 = tl.load(group + 2) if TOGETHER > 1 else to0
    to2 = tl.load(group + 3) if TOGETHER > 2 else to0
    to3 = tl.load(group + 4) if TOGETHER > 3 else to0
    # Where there is no row, the first one's values are read and nothing is written.
    row0 = tl.load(value_rows + tl.maximum(to0, 0))
    row1 = tl.load(value_rows + tl.maximum(to1, 0))
    row2 = tl.load(value_rows + tl.maximum(to2, 0))
    row3 = tl.load(value_rows + tl.maximum(to3, 0))
    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sum0 = tl.zeros([BLOCK_M, HEAD_WIDTH], tl.float32)
    sum1 = tl.zeros([BLOCK_M if TOGETHER > 1 else 1, HEAD_WIDTH], tl.float32)
    sum2 = tl.zeros([BLOCK_M if TOGETHER > 2 else 1, HEAD_WIDTH], tl.float32)
    sum3 = tl.zeros([BLOCK_M if TOGETHER > 3 else 1, HEAD_WIDTH], tl.float32)
    for start in range(0, num_known, BLOCK_N):
        known = start + n
        is_known = known < num_known
        k = tl.load(at_key + known[None, :] * key_token + d[:, None], mask=is_known[None, :], other=0.0)
        if WIDEN:
            k = k.to(tl.float32)
        scores = tl.dot(q, k, input_precision=PRECISION) * _LOG2_E
        scores = tl.where(is_known[None, :], scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, 1))  # finite: every block has a known key
        weights = tl.exp2(scores - now[:, None])
        decay = tl.exp2(largest - now)
        total = total * decay + tl.sum(weights, 1)
        largest = now
        # Rows of the cache that are not known yet hold anything, NaN too: they are not read.
        at_known = at_value + known[:, None] * value_token + d[None, :]
        weights = weights.to(values.dtype.element_ty)
        if WIDEN:
            weights = weights.to(tl.float32)
        v = tl.load(at_known + row0 * value_row, mask=is_known[:, None], other=0.0)
        sum0 = tl.dot(weights, v.to(weights.dtype), sum0 * decay[:, None], input_precision=PRECISION)
        if TOGETHER > 1:
            v = tl.load(at_known + row1 * value_row, mask=is_known[:, None], other=0.0)
            sum1 = tl.dot(weights, v.to(weights.dtype), sum1 * decay[:, None], input_precision=PRECISION)
        if TOGETHER > 2:
            v = tl.load(at_known + row2 * value_row, mask=is_known[:, None], other=0.0)
            sum2 = tl.dot(weights, v.to(weights.dtype), sum2 * decay[:, None], input_precision=PRECISION)
        if TOGETHER > 3:
            v = tl.load(at_known + row3 * value_row, mask=is_known[:, None], other=0.0)
            sum3 = tl.dot(weights, v.to(weights.dtype), sum3 * decay[:, None], input_precision=PRECISION)
    at_out = out + head * out_head + m[:, None] * out_token + d[None, :]
    element = out.dtype.element_ty
    tl.store(
        at_out + to0 * out_row,
        (sum0 / total[:, None]).to(element),
        mask=is_query & (to0 + m[:, None] >= m[:, None]),
    )
    if TOGETHER > 1:
        tl.store(
            at_out + to1 * out_row,
            (sum1 / total[:, None]).to(element),
            mask=is_query & (to1 + m[:, None] >= m[:, None]),
        )
    if TOGETHER > 2:
        tl.store(
            at_out + to2 * out_row,
            (sum2 / total[:, None]).to(element),
            mask=is_query & (to2 + m[:, None] >= m[:, None]),
        )
    if TOGETHER > 3:
        tl.store(
            at_out + to3 * out_row,
            (sum3 / total[:, None]).to(element),
            mask=is_query & (to3 + m[:, None] >= m[:, None]),
        )


def num_warps(together: int) -> int:
    """So many that the accumulators stay in registers."""
    return 4 if together == 1 else 8


def source(*, together: int, head_width: int, dtype: str) -> ASTSource:
    """The kernel with types, for compiling it ahead of time on a machine without a GPU."""
    constants = {
        "TOGETHER": together, "HEAD_WIDTH": head_width,
        "BLOCK_M": BLOCK_QUERIES, "BLOCK_N": BLOCK_KEYS, "PRECISION": "ieee", "WIDEN": False,
    }  # fmt: skip
    names = shared_attention_kernel.arg_names
    types = dict.fromkeys(names, "i32") | dict.fromkeys(("queries", "keys", "values", "out"), f"*{dtype}")
    types |= dict.fromkeys(("groups", "value_rows"), "*i64") | dict.fromkeys(constants, "constexpr")
    aligned = [name for name in names if name not in (*constants, "num_tokens", "num_known")]
    return ASTSource(
        shared_attention_kernel,
        types,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )


def launch(
    queries: Tensor, keys: Tensor, values: Tensor, groups: Tensor, value_rows: Tensor, num_known: int
) -> Tensor:
    """As `shared_attention`, of what `is_shareable`."""
    queries, keys, values = (x if x.stride(-1) == 1 else x.contiguous() for x in (queries, keys, values))
    _, num_tokens, num_heads, head_width = queries.shape
    out = queries.new_empty(len(value_rows), num_tokens, num_heads, head_width)
    num_groups, together = groups.shape[0], groups.shape[1] - 1
    grid = (triton.cdiv(num_tokens, BLOCK_QUERIES), num_heads, num_groups)
    with torch.cuda.device_of(queries):
        shared_attention_kernel[grid](
            queries, keys, values, groups, value_rows, out,
            queries.stride(0), queries.stride(1), queries.stride(2),
            keys.stride(0), keys.stride(1), keys.stride(2),
            values.stride(0), values.stride(1), values.stride(2),
            out.stride(0), out.stride(1), out.stride(2),
            num_tokens, num_known,
            TOGETHER=together, HEAD_WIDTH=head_width,
            BLOCK_M=BLOCK_QUERIES, BLOCK_N=BLOCK_KEYS, PRECISION="ieee", WIDEN=triton.knobs.runtime.interpret,
            num_warps=num_warps(together), num_stages=NUM_STAGES,
        )  # fmt: skip
    return out.flatten(2)
