"""Muon: momentum, orthogonalised. Unlike torch's it takes convolutions too, and fp32 where bf16 is slow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: quintic Newton-Schulz (Jordan et al., 2024).

    matrices: [matrices, rows, columns], in the precision to work in.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """For weight matrices and convolutions, whose kernels count as inputs; give everything else to AdamW."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rate: float,
        momentum: float = 0.95,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum})
        self._precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():  # together: a few large products, not many small ones
                momentum = group["momentum"]
                directions = torch.stack([self._direction(weight, momentum) for weight in parameters])
                matrices = directions.flatten(2).to(self._precision)
                tallness = max(1.0, matrices.shape[1] / matrices.shape[2]) ** 0.5
                for parameter, update in zip(parameters, orthogonalise(matrices), strict=True):
                    parameter.add_(update.to(parameter.dtype).view(shape), alpha=-group["lr"] * tallness)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        assert parameter.grad is not None
        buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        buffer.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)


def muon_and_adam(
    module: nn.Module,
    by_muon: Callable[[str, Tensor], bool],
    *,
    muon_rate: float,
    momentum: float,
    adam_rate: float,
    weight_decay: float,
    precision: torch.dtype,
) -> list[Optimizer]:
    """Muon for the parameters that `by_muon(name, parameter)` chooses, AdamW for the rest of a module."""
    chosen = [parameter for name, parameter in module.named_parameters() if by_muon(name, parameter)]
    rest = [parameter for name, parameter in module.named_parameters() if not by_muon(name, parameter)]
    return [
        Muon(chosen, muon_rate, momentum, precision),
        torch.optim.AdamW(rest, adam_rate, betas=(0.9, 0.98), weight_decay=weight_decay),
    ]
