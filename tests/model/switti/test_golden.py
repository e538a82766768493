"""Parity with the reference on golden/switti_tiny, and proof that the check can fail."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.evaluation.checks import Check
from service.evaluation.verify_switti import INPUTS, SwittiSet, switti_checks
from service.model.checkpoints.loader import read_tensors

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "golden" / "switti_tiny"


@cache
def config() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((FOLDER / "config.json").read_text())
    return stored


def expected() -> dict[str, Tensor]:
    return read_tensors(FOLDER / "tensors.safetensors")


@torch.inference_mode()
def checks_of(tensors: dict[str, Tensor]) -> list[Check]:
    return list(switti_checks(FOLDER, config(), tensors))


def changed(name: str, place: int = 7) -> dict[str, Tensor]:
    tensors = expected()
    flat = tensors[name].clone().flatten()
    flat[place] = 1 - flat[place] if flat.dtype != torch.int32 else (flat[place] + 1) % config()["V"]
    return tensors | {name: flat.view_as(tensors[name])}


def test_our_numbers_are_those_of_the_reference_and_each_tensor_is_compared() -> None:
    checks = checks_of(expected())
    assert [check for check in checks if not check.passed] == []
    assert {check.tensor for check in checks} == set(config()["tensors"]) - INPUTS
    assert len(checks) == len({check.tensor for check in checks}) == 46


@pytest.mark.parametrize(
    ("name", "miss"),
    [
        ("vae.idx", "vae.idx"),
        ("nar.g.logits", "nar.g.logits"),
        ("ar.s_style.F3_after", "ar.s_style.F3_after"),
        ("pooled", "ar.g.logits"),
    ],
)
def test_one_changed_number_in_the_set_is_refused(name: str, miss: str) -> None:
    missed = {check.tensor for check in checks_of(changed(name)) if not check.passed}
    assert miss in missed


def test_one_changed_weight_is_refused() -> None:
    golden = SwittiSet(FOLDER, config(), expected())
    with torch.no_grad():
        golden.tokenizer.get_parameter("phis.0.bias")[0] += 0.01
        missed = {check.tensor for check in golden.checks() if not check.passed}
    assert {"vae.fhat", "nar.g.logits", "ar.g_style.F3_after"} <= missed


def test_a_set_without_an_input_names_it() -> None:
    tensors = expected()
    del tensors["pooled"]
    with pytest.raises(KeyError, match="pooled"):
        checks_of(tensors)
