"""Products in fp8 (e4m3) of a transformer's matrices, scaled by output, with rows, each scaled by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import ScalingType

_LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448
_SMALLEST_SCALE = 1e-12  # of a row of zeros
_NEEDS = 16  # kernels take matrices whose sides are multiples of it
_FIRST_CAPABILITY = (8, 9)  # Ada; Hopper is 9.0


@dataclass(frozen=True, slots=True, eq=False)
class Fp8Matrix:
    """Values [outputs, inputs] in fp8, and the scale of each output, [outputs, 1] fp32.

    To those who multiply with it, a bf16 matrix: of that dtype are what it takes and what it gives.
    """

    values: Tensor
    scales: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Fp8Matrix:
        return cls(*_scaled(matrix))

    def __getitem__(self, outputs: slice) -> Fp8Matrix:
        return Fp8Matrix(self.values[outputs], self.scales[outputs])

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    def float(self) -> Tensor:
        return self.values.float() * self.scales

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`x @ matrix.T + bias` of x [..., inputs], in bf16, as which x and bias are read.

        Each row of x is scaled by itself.
        """
        rows, scales = _scaled(x.reshape(-1, x.shape[-1]).to(self.dtype))
        y = F.scaled_mm(
            rows,
            self.values.T,
            scales,
            ScalingType.RowWise,
            self.scales.T,
            ScalingType.RowWise,
            output_dtype=self.dtype,
        )
        return (y if bias is None else y + bias.to(self.dtype)).view(*x.shape[:-1], -1)


class Fp8Linear(nn.Module):
    """A linear layer of such a matrix."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        matrix = Fp8Matrix.of(layer.weight)
        self.values = nn.Parameter(matrix.values, requires_grad=False)
        self.scales = nn.Parameter(matrix.scales, requires_grad=False)
        self.bias = layer.bias

    @property
    def weight(self) -> Fp8Matrix:
        return Fp8Matrix(self.values, self.scales)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.product(x, self.bias)


def hold_in_fp8(module: nn.Module) -> None:
    """Replace the linear layers of a module, all but those whose sides no kernel takes."""
    for name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            hold_in_fp8(child)
        elif not (child.in_features % _NEEDS or child.out_features % _NEEDS):
            setattr(module, name, Fp8Linear(child))


def is_in_fp8(module: nn.Module) -> bool:
    return any(isinstance(part, Fp8Linear) for part in module.modules())


def require_fp8(device: torch.device) -> None:
    """ValueError where the device multiplies in no fp8. A CPU does, slowly: to see what it changes."""
    if device.type == "cuda":
        require_capability(torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device))


def require_capability(capability: tuple[int, int], gpu: str) -> None:
    """ValueError: a sentence, where it is lower than fp8 takes."""
    if capability < _FIRST_CAPABILITY:
        raise ValueError(
            f"ATELIER_PRECISION is fp8, in which {gpu} (compute capability {capability[0]}.{capability[1]}) "
            "cannot multiply; that takes 8.9 or more, such as an L4, an RTX 4090 or an H100: leave it at auto"
        )


def _scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [rows, inputs] in fp8, and the scale of each, [rows, 1] fp32."""
    rows = rows.float()
    scales = rows.abs().amax(-1, keepdim=True).clamp_min(_SMALLEST_SCALE) / _LARGEST
    return (rows / scales).to(torch.float8_e4m3fn), scales
