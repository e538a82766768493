"""Runs the kernel of shared attention in Triton's interpreter beside the plain form, and prints differences.

`TRITON_INTERPRET=1 python -m tests.support.interpreted_kernel`: a process of its own: Triton reads it once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from service.model.shared_attention import attend, row_groups
from service.model.shared_attention_triton import launch

# Own rows, queries, known tokens, sources and the values' rows: one to eight followers, odd lengths, an own
# row whose own result nobody wants, cached rows that are left out, uncorrected rows beside corrected ones.
CASES: Sequence[tuple[int, int, int, tuple[int, ...], tuple[int, ...]]] = (
    (2, 9, 30, (0, 1, 0, 1), (0, 1, 2, 3)),
    (1, 65, 97, (0, 0), (0, 1)),
    (1, 1, 1, (0, 0, 0), (2, 0, 1)),
    (2, 7, 33, (0, 1, 1), (2, 0, 3)),
    *((1, 5, 40, (0,) * (1 + followers), tuple(range(1 + followers))) for followers in range(2, 9)),
)


def largest_difference(
    own_rows: int, num_tokens: int, num_known: int, sources: Sequence[int], value_rows: Sequence[int],
    head_width: int, dtype: torch.dtype,
) -> float:  # fmt: skip
    """Between the kernel and `attend` in fp32; NaN where the kernel read what is not known."""
    heads, room = 2, num_known + 11
    random = torch.Generator().manual_seed(num_known)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    queries = drawn(own_rows, heads, num_tokens, head_width).transpose(1, 2) * head_width**-0.5
    keys, values = (
        drawn(own_rows, heads, room, head_width),
        drawn(max(value_rows) + 1, heads, room, head_width),
    )
    keys[:, :, num_known:] = values[:, :, num_known:] = torch.nan  # a cache is allocated, not filled
    rows, groups = torch.tensor(value_rows), row_groups(sources, torch.device("cpu"))
    ours = launch(queries, keys, values, groups, rows, num_known)
    known = keys[:, :, :num_known].float(), values[rows, :, :num_known].float()
    return (ours.float() - attend(queries.float(), *known, sources)).abs().max().item()


if __name__ == "__main__":
    print(
        json.dumps(
            {
                str(dtype): [largest_difference(*case, width, dtype) for case in CASES for width in widths]
                for dtype, widths in ((torch.float32, (16, 32)), (torch.bfloat16, (128,)))
            }
        )
    )
