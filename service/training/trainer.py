"""What all trainings share: device and precision, checkpoints, rates, weight averaging and the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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


class Stopped(Exception):
    """A signal asked the training to end; it has saved what it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What every training of a run shares: its folder, its device, who watches it and who may stop it."""

    folder: Path
    compute: Compute
    compiles: bool = False  # the transformer's blocks, by torch.compile, which takes a C++ compiler on a CPU
    clock: Callable[[], float] = time.monotonic  # seconds
    stopped: Callable[[], bool] = lambda: False
    report: Callable[[str, float, str], None] = lambda stage, share, losses: (
        None
    )  # share of the stage done, 0 to 1


class Run:
    """One training of so many minutes: resumes from its checkpoint, and writes one every two minutes.

    Its rates follow the share of the minutes that has passed, not a number of steps, so that the same command
    suits any machine. Time between runs does not count.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        modules: nn.Module,
        optimisers: Sequence[Optimizer],
        *,
        minutes: float,
        flat_share: float,
        decay: float,
    ) -> None:
        self.name, self.session = name, session
        self.file, self.log = session.folder / f"{name}.pt", session.folder / "log.txt"
        self.modules, self.optimisers = modules, optimisers
        self.seconds, self.flat_share = minutes * 60, flat_share
        self.average = Average(dict(modules.named_parameters()), decay)
        self.rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
        self.step, self._before = 0, 0.0
        if self.file.exists():
            state: dict[str, Any] = torch.load(
                self.file, map_location=next(modules.parameters()).device, weights_only=True
            )
            modules.load_state_dict(state["modules"])
            for optimiser, stored in zip(optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(stored)
            self.average.values, self.step, self._before = state["average"], state["step"], state["seconds"]
        self._started = self._saved = self._seen = session.clock()

    @property
    def elapsed_seconds(self) -> float:
        return self._before + self.session.clock() - self._started

    @property
    def share(self) -> float:
        """Of the minutes that have passed, 0 to 1."""
        return min(1.0, self.elapsed_seconds / self.seconds)

    @property
    def is_done(self) -> bool:
        return self.elapsed_seconds >= self.seconds

    def descend(self, loss: Tensor, losses: Mapping[str, float]) -> None:
        """One step down the clipped gradient of `loss` at this moment's rate; then average, log and save.

        Stopped when the session asks for it.
        """
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        left = (1 - self.share) / (1 - self.flat_share)
        factor = max(0.02, min(1.0, left, (self.step + 1) / 20))
        for optimiser, rates in zip(self.optimisers, self.rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(dict(self.modules.named_parameters()), self.step)
        told = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        self.session.report(self.name, self.share, told)
        if self.step % 10 == 0:
            with self.log.open("a") as log:
                log.write(f"{self.name} step {self.step} seconds {self.elapsed_seconds:.0f} {told}\n")
        if self.session.stopped():
            self.save()
            raise Stopped(self.name)
        if self.is_done or self.session.clock() - self._saved > 120:
            self.save()

    def is_sheet_due(self, minutes: float) -> bool:
        """Whether so many minutes have passed since this last said yes, or the training has just ended."""
        due = self.is_done or self.session.clock() - self._seen > 60 * minutes
        if due:
            self._seen = self.session.clock()
        return due

    def save(self) -> None:
        state = {
            "modules": self.modules.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average.values,
            "step": self.step,
            "seconds": self.elapsed_seconds,
        }
        torch.save(state, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").replace(self.file)
        self._saved = self.session.clock()

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


def load_average(file: Path, modules: nn.Module) -> float:
    """The average that a training's checkpoint holds into `modules`; returns the seconds that it has had.

    FileNotFoundError when there is no checkpoint.
    """
    if not file.exists():
        raise FileNotFoundError(f"There is no {file}: run the stages before this one first.")
    state: dict[str, Any] = torch.load(
        file, map_location=next(modules.parameters()).device, weights_only=True, mmap=True
    )
    with torch.no_grad():
        for name, parameter in modules.named_parameters():
            parameter.copy_(state["average"][name])
    return float(state["seconds"])
