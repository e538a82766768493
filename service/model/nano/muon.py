"""Muon in fp32: momentum, orthogonalised. torch's own works in bf16, a hundred times slower on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: quintic Newton-Schulz (Jordan et al., 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(Optimizer):
    """For weight matrices and convolutions, whose kernels count as inputs; give everything else to AdamW."""

    def __init__(self, parameters: Iterable[Tensor], rate: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                buffer = state.setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                matrix = parameter.grad.lerp(buffer, group["momentum"]).flatten(1)
                tallness = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                parameter.add_(orthogonalise(matrix).view_as(parameter), alpha=-group["lr"] * tallness)


def muon_and_adam(
    module: nn.Module,
    by_muon: Callable[[str, Tensor], bool],
    *,
    muon_rate: float,
    momentum: float,
    adam_rate: float,
    weight_decay: float,
) -> list[Optimizer]:
    """Muon for the parameters that `by_muon(name, parameter)` chooses, AdamW for the rest of a module."""
    chosen = [each for name, each in module.named_parameters() if by_muon(name, each)]
    rest = [each for name, each in module.named_parameters() if not by_muon(name, each)]
    return [
        Muon(chosen, muon_rate, momentum),
        torch.optim.AdamW(rest, adam_rate, betas=(0.9, 0.98), weight_decay=weight_decay),
    ]
