"""A linear layer whose result for a row does not depend on the rows beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.model.device.fp8 import Fp8Matrix

# CPU matrix kernels work on tiles of rows and compute the remainder with another kernel, which rounds
# differently: the same token would have other bits alone than in a batch. Rows padded to whole tiles all use
# the same kernel. The tile that is needed depends on the CPU: 8 rows hold on an AMD EPYC, MKL needs 16 on an
# Intel Xeon with AVX-512, and where it splits long sums among threads none holds. So it is measured.
ROW_TILES = (8, 16, 32, 64)
# Row counts that are compared, in tiles; without the last for large matrices, where it would take seconds.
_NUM_TILES = (1, 2, 3, 8, 32)
# oneDNN's product takes 0.85 of MKL's time on an EPYC, and with the activation in it 0.7 of both (fp32): of
# large matrices. Of small ones it takes as long, and keeps half a megabyte of code for each number of rows.
# It is what torch's own compiler calls; it has no gradient.
_LARGE = 2**18
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@dataclass(frozen=True, slots=True)
class RowTile:
    num_rows: int  # rows are padded to multiples of it
    holds: bool  # whether a row was seen to round alike in any company; False also where nothing was checked


# One for the process, as it depends on CPU and threads. It only grows: multiples of a tile that holds hold as
# well, so that loading a second model does not change what the first one draws.
_row_tile = RowTile(16, holds=False)


def row_tile() -> RowTile:
    """The tile in use."""
    return _row_tile


def use_row_tile(weights: Iterable[Tensor]) -> RowTile:
    """Measure the tile for these matrices and use it from now on; call it before the first batch."""
    global _row_tile  # noqa: PLW0603  see above
    chosen = choose_row_tile(weights)
    previous = _row_tile.num_rows if _row_tile.holds else 0
    _row_tile = RowTile(max(chosen or ROW_TILES[1], previous), holds=chosen is not None)
    return _row_tile


def choose_row_tile(
    weights: Iterable[Tensor], product: Callable[[Tensor, Tensor], Tensor] | None = None
) -> int | None:
    """The smallest of ROW_TILES with which each row of `x @ weight.T` rounds the same beside any other rows.

    `weights` are matrices [outputs, inputs] on the CPU, of which one of each shape and dtype is multiplied.
    None when no tile holds for all of them. `product(x, weight)` replaces the kernels.
    """
    matrices = list({(weight.shape, weight.dtype): weight for weight in weights}.values())
    with torch.inference_mode():
        for tile in ROW_TILES:
            if all(_holds(tile, weight, product or _default_product) for weight in matrices):
                return tile
    return None


def _holds(tile: int, weight: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> bool:
    row_counts = [tile * num_tiles for num_tiles in (_NUM_TILES[:-1] if _is_large(weight) else _NUM_TILES)]
    x = torch.randn(row_counts[-1], weight.shape[1], generator=torch.Generator().manual_seed(0)).to(
        weight.dtype
    )
    whole = product(x, weight)
    is_first_alike = torch.equal(product(x[:tile], weight), whole[:tile])
    return is_first_alike and all(
        torch.equal(product(x[-num_rows:], weight), whole[-num_rows:]) for num_rows in row_counts[:-1]
    )


def linear_weights(*modules: nn.Module) -> list[Tensor]:
    """The matrices of all linear layers, for `use_row_tile`."""
    return [part.weight for module in modules for part in module.modules() if isinstance(part, nn.Linear)]


def linear(
    x: Tensor,
    weight: Tensor | Fp8Matrix,
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
    if isinstance(weight, Fp8Matrix):
        y = weight.product(x, bias)
        return F.gelu(y, approximate="tanh") if gelu else y
    x, bias = x.to(weight.dtype), bias if bias is None else bias.to(weight.dtype)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return _product(x, weight, bias, gelu, is_large=False)
    if is_large is None:
        is_large = _is_large(weight)
    flat = x.reshape(-1, x.shape[-1])  # [rows, channels]
    missing = -flat.shape[0] % _row_tile.num_rows
    if missing == 0:
        return _product(x, weight, bias, gelu, is_large=is_large)
    padded = _product(F.pad(flat, (0, 0, 0, missing)), weight, bias, gelu, is_large=is_large)
    return padded[: flat.shape[0]].reshape(*x.shape[:-1], -1)


def _is_large(weight: Tensor) -> bool:
    return weight.numel() >= _LARGE


def _default_product(x: Tensor, weight: Tensor) -> Tensor:
    return _product(x, weight, None, gelu=False, is_large=_is_large(weight))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, *, is_large: bool) -> Tensor:
    if is_large and weight.dtype == torch.float32 and _HAS_ONEDNN and not torch.is_grad_enabled():
        activation, algorithm = ("gelu", "tanh") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)
    if gelu and bias is not None and x.device.type != "cpu":
        return linear_gelu(x, weight, bias)
    y = F.linear(x, weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


@torch.library.custom_op("atelier::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU, in its tanh approximation, of `x @ weight.T + bias`, x [..., channels]: on a GPU one kernel.

    cuBLAS activates in fp32 before it rounds. A compiler would write the hidden layer, the widest tensor that
    there is, and read it again; so it takes this as it is.
    """
    y = torch._addmm_activation(bias, x.reshape(-1, x.shape[-1]), weight.T, use_gelu=True)
    return y.view(*x.shape[:-1], -1)


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """`nn.Linear` on row-independent arithmetic."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
