"""Parity with the reference, and proof that the check can fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from service.cli.main import cli
from service.evaluation.checks import Check, Form
from service.evaluation.verify import table, verify
from service.evaluation.verify_switti import INPUTS

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
SETS = (
    "infinity_transformer_tiny",
    "infinity_vae_tiny",
    "infinity_8b_tiny",
    "style_personalization_tiny",
    "switti_tiny",
)


@cache
def golden_checks(name: str) -> list[Check]:
    return verify(GOLDEN / name)


@pytest.mark.parametrize("name", SETS)
def test_our_numbers_are_those_of_the_reference(name: str) -> None:
    checks = golden_checks(name)
    assert [check for check in checks if not check.passed] == []
    assert len(checks) >= 20


@pytest.mark.parametrize("name", SETS)
def test_the_form_that_gpus_run_has_the_numbers_of_the_reference_too(name: str) -> None:
    checks = verify(GOLDEN / name, Form(torch.device("cpu"), is_fused=True))
    assert [check for check in checks if not check.passed] == []
    exact = golden_checks(name)
    assert [check.tensor for check in checks] == [check.tensor for check in exact]
    if name != "infinity_vae_tiny":  # which has no attention
        assert checks != exact, "the fused kernels round differently: they were not run"


def test_what_is_compiled_has_the_numbers_of_the_reference_too() -> None:
    """Traced and not translated, which would take minutes: `atelier verify --compiled` does both."""
    num_graphs = 0

    def as_it_is(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        nonlocal num_graphs
        num_graphs += 1
        return graph.forward

    torch._dynamo.reset()
    form = Form(torch.device("cpu"), is_fused=True, compiler=as_it_is)
    assert [check for check in verify(GOLDEN / "infinity_8b_tiny", form) if not check.passed] == []
    assert num_graphs > 5  # layers, head, sampling, with more rows and fewer


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("infinity_vae_tiny", ["p16.bits", "p8.h"]),
        ("infinity_transformer_tiny", ["g_b1.logits", "dbg.cond_BD", "text.kv_compact"]),
        ("switti_tiny", ["nar.g.logits"]),
    ],
)
def test_one_changed_number_is_a_miss(name: str, changed: list[str], tmp_path: Path) -> None:
    """All in one run of the checks; what is computed from a changed input differs from the reference."""
    folder = copy_changed(name, tmp_path / name, changed)
    missed = {check.tensor for check in verify(folder) if not check.passed}
    inputs = {"text.kv_compact"}
    assert set(changed) - inputs <= missed
    assert not inputs & set(changed) or missed - set(changed)


def copy_changed(name: str, folder: Path, changed: list[str]) -> Path:
    """A copy of a golden set with one number of each of these tensors changed."""
    shutil.copytree(GOLDEN / name, folder)
    tensors = load_file(folder / "tensors.safetensors")
    for tensor in changed:
        numbers = tensors[tensor].clone().flatten()
        numbers[7] = 1 - numbers[7]
        tensors[tensor] = numbers.view_as(tensors[tensor])
    save_file(tensors, folder / "tensors.safetensors")
    return folder


def test_the_command_prints_a_table_and_ends_with_one_on_a_miss(tmp_path: Path) -> None:
    good = CliRunner().invoke(cli, ["verify", str(GOLDEN / "infinity_vae_tiny")])
    assert good.exit_code == 0, good.output
    assert "p16.bits" in good.stdout
    assert "All 22 tensors agree" in good.stdout
    folder = copy_changed("infinity_vae_tiny", tmp_path / "changed", ["p8.decoded_crop"])
    bad = CliRunner().invoke(cli, ["verify", str(folder)])
    assert bad.exit_code == 1
    assert "MISS" in bad.stdout
    assert "1 of 22 tensors differ" in bad.stderr
    fused = CliRunner().invoke(cli, ["verify", "--device", "cpu", "--fused", str(folder)])
    assert fused.exit_code == 1
    assert "Row tile" not in fused.stdout
    elsewhere = CliRunner().invoke(cli, ["verify", "--device", "cuda:9", str(folder)])
    assert elsewhere.exit_code == 1
    assert "There is no device 'cuda:9' here" in elsewhere.stderr
    half = CliRunner().invoke(cli, ["verify", "--precision", "bf16", "--compiled", str(folder)])
    assert half.exit_code == 1
    assert "leave out --device, --fused and --compiled" in half.stderr
    unknown = CliRunner().invoke(cli, ["verify", "--precision", "fp4", "--model", "nano"])
    assert unknown.exit_code == 1
    assert "must be bf16 or fp8, not 'fp4'" in unknown.stderr
    missing = CliRunner().invoke(cli, ["verify", "--precision", "fp8", "--model", str(tmp_path / "nothing")])
    assert missing.exit_code == 1
    assert "There is no model" in missing.stderr
    nothing = CliRunner().invoke(cli, ["verify", str(tmp_path / "nothing")])
    assert nothing.exit_code == 1
    assert "not laid out like a golden set" in nothing.stderr


def test_every_expected_number_is_checked() -> None:
    inputs = {"text.kv_compact", "text.lens", "neg.kv_compact", "neg.lens", "style_image_u8"}
    inputs |= INPUTS
    for name in SETS:
        stored = set(json.loads((GOLDEN / name / "config.json").read_text())["tensors"])
        images = {tensor for tensor in stored if tensor.endswith("image_u8")}
        checked = {check.tensor for check in golden_checks(name)}
        assert stored - checked - inputs - images <= ({"style.bits"} if name == "infinity_8b_tiny" else set())


def test_a_folder_of_another_kind_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        verify(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, tmp_path / "tensors.safetensors")
    with pytest.raises(ValueError, match="neither transformer"):
        verify(tmp_path)
    shutil.copy(GOLDEN / "infinity_vae_tiny" / "config.json", tmp_path)
    shutil.copy(GOLDEN / "infinity_vae_tiny" / "vae_p16.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"it has no 'p16\.image_u8'"):
        verify(tmp_path)


def test_not_a_number_is_a_miss_and_the_table_says_so() -> None:
    checks = [Check("a", float("nan"), 1.0), Check("b", 0.0, 0)]
    assert [check.passed for check in checks] == [False, True]
    header, first, second = table(checks).splitlines()
    assert "tolerance" in header
    assert first.endswith("MISS")
    assert "exact" in second
