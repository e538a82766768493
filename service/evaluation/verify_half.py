"""How far bf16 and fp8 agree with fp32: the share of equal bits, step by step, and decoded images.

Free-running, each precision continues from its own bits, so that one different bit changes many later ones.
Forced, every step starts from the feature that fp32 had: what remains is the step's own rounding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.evaluation.checks import ON_CPU, Form, read_tokenizer, tokenizer_config
from service.evaluation.recording import Recording, Run
from service.evaluation.verify_transformer import TransformerSet
from service.model.checkpoints import registry
from service.model.checkpoints.loader import read_tensors
from service.model.checkpoints.options import LoadOptions, PrecisionChoice
from service.model.device.precision import Precision
from service.model.engine.types import ImageSpec
from service.model.infinity.backbone import Infinity


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
    steps = [step for agreement in found for step in agreement.steps]
    lines = [f"{'step':>5} {'bits':>8}  {'agree, forced':>13}  {'agree, free':>11}  largest logit difference"]
    for number in sorted({step.step for step in steps}):
        lines.append(f"{number:5} {_line([step for step in steps if step.step == number])}")
    return "\n".join([*lines, f"{'all':>5} {_line(steps)}"])


def overall(found: Sequence[Agreement]) -> float:
    """The share of all bits that agree, forced."""
    steps = [step for agreement in found for step in agreement.steps]
    return _mean(steps, [step.forced for step in steps])


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


# Of bits, each step started from the feature of fp32. The sets reach 99.66% and more. Casting too much moves
# that by some hundredths of a percent only: which dtype is where has a test of its own. Free-running there is
# no floor: one bit changes the picture that follows.
MIN_FORCED = 0.995
# Of decoded images in decibels: the sets, of random weights, reach 47; nano's reach 60.
MIN_PSNR = 45.0
FLOORS = f"at least {MIN_FORCED:.1%} of the bits of each step's own rounding, images at {MIN_PSNR:g} dB"
HALF = Precision(torch.bfloat16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class HalfReport:
    """What bf16 changes on one folder: in its runs, if it has any, and in its decoded images."""

    runs: tuple[Agreement, ...]
    decibels: Mapping[str, float]

    @property
    def passed(self) -> bool:
        bits_agree = not self.runs or overall(self.runs) >= MIN_FORCED
        return bits_agree and all(decibel >= MIN_PSNR for decibel in self.decibels.values())

    def table(self) -> str:
        lines = [report(self.runs)] if self.runs else []
        return "\n".join(
            [*lines, *(f"{name} decoded: {decibel:.1f} dB" for name, decibel in self.decibels.items())]
        )


NUM_PROMPTS, FIRST_SEED, _TOGETHER = 64, 1, 16


@torch.inference_mode()
def agreement_on(
    name: str, precision: PrecisionChoice, models_dir: Path = Path(), num_prompts: int = NUM_PROMPTS
) -> HalfReport:
    """What a precision changes where a checkpoint draws prompts on the CPU, a few things at once.

    ValueError when there is no such checkpoint, or when it draws no bits.
    """
    full, other = (
        registry.load(name, "cpu", models_dir=models_dir, choices=LoadOptions(precision=chosen)).backbone
        for chosen in ("fp32", precision)
    )
    if not isinstance(full, Infinity) or not isinstance(other, Infinity):
        raise ValueError(f"{name} draws no bits: give an Infinity model")
    size = next(iter(full.schedules))
    prompts = _prompts(full, num_prompts)
    seeds = range(FIRST_SEED, FIRST_SEED + len(prompts))
    texts = {
        text: full.encode_text(text).conditioning
        for prompt, seed in zip(prompts, seeds, strict=True)
        for text in [full.vocabulary.posed(prompt, seed) if full.vocabulary else prompt]
    }
    specs = [ImageSpec(prompt, seed, size) for prompt, seed in zip(prompts, seeds, strict=True)]
    batches = [tuple(specs[at : at + _TOGETHER]) for at in range(0, len(specs), _TOGETHER)]
    runs = ([Run("", model, texts, batch) for batch in batches] for model in (full, other))
    return HalfReport(tuple(agreements(*runs)), {})


def _prompts(model: Infinity, num: int) -> list[str]:
    things = (model.vocabulary.things if model.vocabulary else ()) or ("cat", "house", "tree", "star")
    return [f"a {thing}" for thing in things[:: max(1, len(things) // num)]][:num]


@torch.inference_mode()
def verify_half(folder: Path, form: Form = ON_CPU) -> HalfReport:
    """ValueError when the folder is not laid out like a golden set."""
    try:
        config = json.loads((folder / "config.json").read_text())
        expected = read_tensors(folder / "tensors.safetensors")
        if not (folder / "transformer.safetensors").is_file():
            return HalfReport((), _decoded(folder, config, expected, form.device))
        full = TransformerSet(folder, config, expected, Precision(), form)
        half = TransformerSet(folder, config, expected, HALF, form)
        return HalfReport(tuple(agreements(full.runs(), half.runs())), {})
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not laid out like a golden set: {error}") from error
    except KeyError as error:
        raise ValueError(f"{folder} is not laid out like a golden set: it has no {error}") from error


def _decoded(
    folder: Path, config: Mapping[str, Any], expected: Mapping[str, Tensor], device: torch.device
) -> dict[str, float]:
    found = {}
    for file in sorted(folder.glob("vae_*.safetensors")):
        name = file.stem.removeprefix("vae_")
        tokenizer = read_tokenizer(file, tokenizer_config(config[name], config[name]["patch_size"])).to(
            device
        )
        features = expected[f"{name}.z"].to(device)
        image = tokenizer.decode(features)
        tokenizer.hold_decoder_in(HALF.blocks)
        error = (tokenizer.decode(features) - image).square().mean()
        found[name] = (10 * torch.log10(4 / error)).item()  # images are from -1 to 1
    return found
