"""A comparison with a reference number and its tolerance; reading the weights of a golden set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.model.checkpoints.loader import load_into, read_tensors
from service.model.infinity.config import TokenizerConfig
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.weight_names import tokenizer_from_official

# Absolute tolerances (golden README, "Decision margins"). Blended features have a wider one: the reference
# decomposes in fp32, which alone moves them by 3e-5 from the exact result; ours is exact to fp32.
LOGITS, FEATURES, BLENDED, IMAGES = 2e-4, 2e-5, 1e-4, 5e-5


@dataclass(frozen=True, slots=True)
class Form:
    """Where a set is run, and whether by the fused kernels that GPUs and compilers always run."""

    device: torch.device
    is_fused: bool = False
    compiler: str | Callable[..., Any] | None = None  # torch's name of a backend, or one; None: not compiled


ON_CPU = Form(torch.device("cpu"))


@dataclass(frozen=True, slots=True)
class Check:
    """One tensor compared: `difference` is the largest absolute one; bits must be equal (tolerance 0)."""

    tensor: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance  # false for NaN


def compare(name: str, ours: Tensor, reference: Tensor, tolerance: float) -> Check:
    if ours.shape != reference.shape:
        return Check(f"{name} {list(ours.shape)} for {list(reference.shape)}", float("nan"), tolerance)
    difference = ours.cpu().double() - reference.cpu().double()
    return Check(name, difference.abs().max().item(), tolerance)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Weights of a golden set: float8 on disk, fp32 in the run."""
    return {name: tensor.float() for name, tensor in read_tensors(file).items()}


def read_tokenizer(file: Path, shape: TokenizerConfig) -> Tokenizer:
    """An image tokenizer, with random weights where the set has no file for one."""
    tokenizer = Tokenizer(shape).eval()
    if file.is_file():
        load_into(tokenizer, tokenizer_from_official(read_weights(file)), source=str(file))
    return tokenizer


def tokenizer_config(stored: Mapping[str, Any], stride: int) -> TokenizerConfig:
    return TokenizerConfig(
        num_bits=stored["codebook_dim"],
        stride=stride,
        channels=stored.get("base_ch", 32),
        multipliers=tuple(stored.get("ch_mult", (1,))),
        num_blocks=stored.get("num_res_blocks", 1),
    )
