"""How far another precision agrees with fp32: the share of bits that come out the same, step by step.

Free-running, each precision goes on from its own bits, so that one other bit early changes many later ones.
Forced, every step starts from the feature that fp32 had: what is left is the step's own rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from service.evaluation.recording import Recording, Run


@dataclass(frozen=True, slots=True)
class StepAgreement:
    """One step of a run: its bits that agree, forced and free, and a forced logit's largest difference."""

    step: int
    num_bits: int
    forced: float
    free: float
    logit_difference: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """One run in another precision beside itself in fp32."""

    run: str
    steps: tuple[StepAgreement, ...]

    @property
    def forced(self) -> float:
        return _mean(self.steps, [step.forced for step in self.steps])

    @property
    def free(self) -> float:
        return _mean(self.steps, [step.free for step in self.steps])


def agreements(full: Iterable[Run], other: Iterable[Run]) -> Iterator[Agreement]:
    """The same runs on the same model, in fp32 and in another precision."""
    for ours, theirs in zip(full, other, strict=True):
        reference = ours.record()
        forced, free = theirs.record(reference.inputs), theirs.record()
        steps = (_step(step, reference, forced, free) for step in range(1, len(reference.bits) + 1))
        yield Agreement(ours.name, tuple(steps))


def report(found: Sequence[Agreement]) -> str:
    """A line a step, over all runs, and one for the whole."""
    every = [step for each in found for step in each.steps]
    lines = [f"{'step':>5} {'bits':>8}  {'agree, forced':>13}  {'agree, free':>11}  largest logit difference"]
    for number in sorted({each.step for each in every}):
        lines.append(f"{number:5} {_line([each for each in every if each.step == number])}")
    return "\n".join([*lines, f"{'all':>5} {_line(every)}"])


def overall(found: Sequence[Agreement]) -> float:
    """The share of all bits that agree, forced."""
    every = [step for each in found for step in each.steps]
    return _mean(every, [each.forced for each in every])


def _step(step: int, reference: Recording, forced: Recording, free: Recording) -> StepAgreement:
    bits = reference.bits[step - 1]
    return StepAgreement(
        step,
        bits.numel(),
        (forced.bits[step - 1] == bits).float().mean().item(),
        (free.bits[step - 1] == bits).float().mean().item(),
        torch.dist(forced.logits[step - 1], reference.logits[step - 1], p=torch.inf).item(),
    )


def _line(steps: Sequence[StepAgreement]) -> str:
    forced = _mean(steps, [step.forced for step in steps])
    free = _mean(steps, [step.free for step in steps])
    difference = max(step.logit_difference for step in steps)
    return f"{sum(step.num_bits for step in steps):8}  {forced:13.2%}  {free:11.2%}  {difference:.3f}"


def _mean(steps: Sequence[StepAgreement], shares: Sequence[float]) -> float:
    num_bits = sum(step.num_bits for step in steps)
    return sum(share * step.num_bits for share, step in zip(shares, steps, strict=True)) / num_bits
