"""A linear layer whose result for a row does not depend on the rows beside it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# CPU matrix kernels work on tiles of rows and send the remainder through another kernel, which rounds
# differently: the same token would give other bits alone than in a batch. Rows padded to whole tiles all take
# the one kernel. Four suffices on the machines measured; eight leaves room for wider ones.
TILE = 8


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, with rows padded to whole tiles on the CPU. x: [..., channels].

    Computed in the weight's dtype, which the result has, whatever the others have.
    """
    x, bias = x.to(weight.dtype), bias if bias is None else bias.to(weight.dtype)
    flat = x.reshape(-1, x.shape[-1])  # [rows, channels]
    missing = -flat.shape[0] % TILE
    if x.device.type != "cpu" or missing == 0:
        return F.linear(x, weight, bias)
    padded = F.linear(F.pad(flat, (0, 0, 0, missing)), weight, bias)
    return padded[: flat.shape[0]].reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`nn.Linear` on row-independent arithmetic."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
