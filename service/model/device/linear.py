"""A linear layer whose result for a row does not depend on the rows beside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# CPU matrix kernels work on tiles of rows and send the remainder through another kernel, which rounds
# differently: the same token would give other bits alone than in a batch. Rows padded to whole tiles all take
# the one kernel. Four suffices on the machines measured; eight leaves room for wider ones.
TILE = 8
# oneDNN's product takes 0.85 of MKL's time on an EPYC, and with the activation in it 0.7 of both (fp32): of
# large matrices. Of small ones it takes as long, and keeps half a megabyte of code for each number of rows.
# It is what torch's own compiler calls; it has no gradient.
_LARGE = 2**18
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gelu: bool = False,
    is_large: bool | None = None,
) -> Tensor:
    """`x @ weight.T + bias`, with rows padded to whole tiles on the CPU. x: [..., channels].

    With `gelu`, its tanh approximation of that. Computed in the dtype of the weight, which the result has,
    whatever the others have. `is_large` chooses the kernels, by default from the weight: never from the rows,
    which would round differently in other company.
    """
    x, bias = x.to(weight.dtype), bias if bias is None else bias.to(weight.dtype)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return _product(x, weight, bias, gelu, is_large=False)
    if is_large is None:
        is_large = weight.numel() >= _LARGE
    flat = x.reshape(-1, x.shape[-1])  # [rows, channels]
    missing = -flat.shape[0] % TILE
    if missing == 0:
        return _product(x, weight, bias, gelu, is_large=is_large)
    padded = _product(F.pad(flat, (0, 0, 0, missing)), weight, bias, gelu, is_large=is_large)
    return padded[: flat.shape[0]].reshape(*x.shape[:-1], -1)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, *, is_large: bool) -> Tensor:
    if is_large and weight.dtype == torch.float32 and _HAS_ONEDNN and not torch.is_grad_enabled():
        activation, algorithm = ("gelu", "tanh") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)
    y = F.linear(x, weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


class Linear(nn.Linear):
    """`nn.Linear` on row-independent arithmetic."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
