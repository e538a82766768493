"""What all trainings share: device and precision, checkpoints, rates, weight averaging and the log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True, slots=True)
class Compute:
    """A device, and the dtype its matrix products run in; weights, norms and losses stay fp32."""

    device: torch.device
    precision: torch.dtype

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, self.precision, enabled=self.precision is not torch.float32, cache_enabled=False
        )


def fastest(device: str = "auto") -> Compute:
    """The GPU if there is one, else the CPU; bf16 where this machine multiplies faster in it."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    chosen = torch.device(name)
    precisions = (torch.float32, torch.bfloat16)
    return Compute(chosen, min(precisions, key=lambda precision: _seconds(chosen, precision)))


def _seconds(device: torch.device, precision: torch.dtype) -> float:
    matrix = torch.ones(768, 768, device=device, dtype=precision)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        times.append(time.perf_counter() - began)
    return min(times)


class Average:
    """Exponential moving average of parameters, with a decay that grows into its value."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.values = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in parameters.items():
            self.values[name].lerp_(parameter, 1 - decay)


class Run:
    """One training: resumes from its checkpoint, and writes one every so many steps."""

    def __init__(
        self,
        name: str,
        folder: Path,
        modules: nn.Module,
        optimisers: Sequence[Optimizer],
        decay: float,
        checkpoint_every: int,
    ) -> None:
        self.name, self.file, self.log = name, folder / f"{name}.pt", folder / "log.txt"
        self.modules, self.optimisers = modules, optimisers
        self.checkpoint_every = checkpoint_every
        self.average = Average(dict(modules.named_parameters()), decay)
        self.rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
        self.step, self.started = 0, time.monotonic()
        if self.file.exists():
            state: dict[str, Any] = torch.load(
                self.file, map_location=next(modules.parameters()).device, weights_only=True
            )
            modules.load_state_dict(state["modules"])
            for optimiser, stored in zip(optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(stored)
            self.average.values, self.step = state["average"], state["step"]

    def descend(self, loss: Tensor, num_steps: int, flat_share: float, losses: Mapping[str, float]) -> None:
        """One step down the clipped gradient of `loss` at this step's rate; then average, log and save."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        left = (num_steps - self.step) / (num_steps * (1 - flat_share))
        factor = max(0.02, min(1.0, left, (self.step + 1) / 20))
        for optimiser, rates in zip(self.optimisers, self.rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(dict(self.modules.named_parameters()), self.step)
        if self.step % 10 == 0:
            self._write(losses)
        if self.step % self.checkpoint_every == 0 or self.step == num_steps:
            self.save()

    def save(self) -> None:
        state = {
            "modules": self.modules.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average.values,
            "step": self.step,
        }
        torch.save(state, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").replace(self.file)

    def load_average(self) -> None:
        with torch.no_grad():
            for name, parameter in self.modules.named_parameters():
                parameter.copy_(self.average.values[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The average in place of the weights, to see what would be shipped now."""
        own = {name: parameter.detach().clone() for name, parameter in self.modules.named_parameters()}
        self.load_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.modules.named_parameters():
                    parameter.copy_(own[name])

    def _write(self, losses: Mapping[str, float]) -> None:
        seconds = time.monotonic() - self.started
        parts = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        with self.log.open("a") as log:
            log.write(f"{self.name} step {self.step} seconds {seconds:.0f} {parts}\n")
