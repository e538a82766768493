"""When a model is compiled that nobody asked to compile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from service.model.checkpoints.registry import reason_not_to_compile

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_what_a_person_says_decides_on_any_device() -> None:
    for device in (CPU, GPU):
        assert reason_not_to_compile(device, choice=True) is None
        assert reason_not_to_compile(device, choice=False) == "ATELIER_COMPILE is false"


def test_unset_a_gpu_compiles_where_compilers_are_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "some-c++"
    monkeypatch.setenv("CXX", str(compiler))
    assert reason_not_to_compile(GPU, None) == (
        f"there is no C++ compiler: install {compiler}, or name another as CXX"
    )
    compiler.touch(mode=0o755)
    pytest.importorskip("triton")
    assert reason_not_to_compile(GPU, None) is None
    assert "on the CPU; ATELIER_COMPILE=true" in str(reason_not_to_compile(CPU, None))
