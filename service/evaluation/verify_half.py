"""How far bf16 is from fp32 on a golden set: bits of every run, and decoded images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.evaluation.agreement import Agreement, agreements, overall, report
from service.evaluation.checks import read_tokenizer, tokenizer_config
from service.evaluation.verify_transformer import TransformerSet
from service.model.checkpoints.loader import read_tensors
from service.model.device.precision import Precision

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


@torch.inference_mode()
def verify_half(folder: Path) -> HalfReport:
    """ValueError when the folder is not laid out like a golden set."""
    try:
        config = json.loads((folder / "config.json").read_text())
        expected = read_tensors(folder / "tensors.safetensors")
        if not (folder / "transformer.safetensors").is_file():
            return HalfReport((), _decoded(folder, config, expected))
        full, half = (TransformerSet(folder, config, expected, each) for each in (Precision(), HALF))
        return HalfReport(tuple(agreements(full.runs(), half.runs())), {})
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not laid out like a golden set: {error}") from error
    except KeyError as error:
        raise ValueError(f"{folder} is not laid out like a golden set: it has no {error}") from error


def _decoded(folder: Path, config: Mapping[str, Any], expected: Mapping[str, Tensor]) -> dict[str, float]:
    found = {}
    for file in sorted(folder.glob("vae_*.safetensors")):
        name = file.stem.removeprefix("vae_")
        tokenizer = read_tokenizer(file, tokenizer_config(config[name], config[name]["patch_size"]))
        image = tokenizer.decode(expected[f"{name}.z"])
        tokenizer.hold_decoder_in(HALF.blocks)
        error = (tokenizer.decode(expected[f"{name}.z"]) - image).square().mean()
        found[name] = (10 * torch.log10(4 / error)).item()  # images are from -1 to 1
    return found
