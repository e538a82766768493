"""Elementwise functions whose result for a row does not depend on the rows beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def by_row(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of x [rows, ...]; on a CPU of one row at a time.

    There torch computes exponentials and logarithms by vectors, and by a scalar function, which rounds
    differently, what is left over at the end of a tensor or of a thread's share: where that is follows from
    the number of rows. (Rows of 36 x 85 numbers, of a batch of 5: 1 of 8 differed in its last bit.)
    """
    if x.device.type != "cpu" or len(x) == 1 or torch.compiler.is_compiling():
        return function(x)
    return torch.cat([function(row) for row in x.split(1)])
