"""Attention weights that rows share: the kernel interpreted, compiled for GPUs, and how rows are grouped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from service.model.attention import CachedLayer, StepAttention
from service.model.shared_attention import is_shareable, row_groups
from tests.support.process import ROOT

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
# Shared memory of a block, in bytes, that a kernel may ask for.
SHARED_MEMORY = {80: 163 * 2**10, 86: 99 * 2**10, 89: 99 * 2**10, 90: 227 * 2**10}


def test_in_the_interpreter_the_kernel_is_the_plain_form_and_reads_nothing_that_is_not_known() -> None:
    pytest.importorskip("triton")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.interpreted_kernel"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    for dtype, differences in json.loads(ran.stdout).items():
        most = 2e-6 if dtype == "torch.float32" else 0.02
        assert len(differences) >= 11
        assert all(difference <= most for difference in differences), (dtype, differences)  # false for NaN


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_compiled_for_a_gpu_it_stays_in_registers_and_in_shared_memory(
    capability: int, tmp_path: Path
) -> None:
    """As PTX's assembler reports it, for two rows together, an image's, and for four."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas

    from service.model import shared_attention_triton as kernels

    for together in (2, 4):
        compiled = triton.compile(
            kernels.source(together=together, head_width=128, dtype="bf16"),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": kernels.num_warps(together), "num_stages": kernels.NUM_STAGES},
        )
        assert compiled.metadata.shared <= SHARED_MEMORY[capability]
        code = tmp_path / f"{together}.ptx"
        code.write_text(compiled.asm["ptx"])
        target = re.search(r"\.target (\w+)", compiled.asm["ptx"])
        assert target is not None
        told = subprocess.run(
            [get_ptxas(capability).path, "-v", f"--gpu-name={target[1]}", code, "-o", tmp_path / "cubin"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
        assert " 0 bytes spill stores, 0 bytes spill loads" in told, told


@pytest.mark.parametrize("num_followers", range(1, 9))
def test_rows_of_a_source_are_grouped_evenly_four_at_most(num_followers: int) -> None:
    sources = (0, 1, *(0, 1) * num_followers, 2)
    groups = row_groups(sources, CPU).tolist()
    found = sorted((row, own) for own, *rows in groups for row in rows if row >= 0)
    assert found == list(enumerate(sources))
    sizes = [sum(row >= 0 for row in rows) for own, *rows in groups if own == 0]
    assert max(sizes) <= 4
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-(num_followers + 1) // 4)
    assert len(row_groups((0, 0), CPU)) == 2  # of which the second has no rows


def test_heads_that_the_kernel_does_not_take_are_told() -> None:
    def queries(head_width: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(1, 1, 1, head_width, dtype=dtype)

    assert is_shareable(queries(128, torch.bfloat16))
    assert is_shareable(queries(64, torch.float32))
    assert not is_shareable(queries(128, torch.float32))
    assert not is_shareable(queries(96, torch.bfloat16))


@pytest.mark.parametrize("kept", [None, (1, 3)])
@torch.inference_mode()
def test_the_shared_form_caches_and_attends_as_the_plain_one(kept: tuple[int, ...] | None) -> None:
    """Four rows of which two follow; at the last step only a content row and a generation row go on."""
    sources = (0, 1, 0, 1) if kept is None else (1, 1)
    rows = torch.tensor(kept) if kept else None
    random = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 5, 2, 16, generator=random).unbind()
    values = torch.randn(len(sources), 5, 2, 16, generator=random)
    results, caches = [], []
    for is_fused in (False, True):
        fill = torch.Generator().manual_seed(1)
        cached = CachedLayer(
            torch.randn(2, 2, 20, 16, generator=fill), torch.randn(4, 2, 20, 16, generator=fill), 8, 13
        )
        groups = row_groups(sources, CPU)
        attention = StepAttention(sources, torch.tensor(sources), groups, rows, cached, is_fused)
        results.append(attention.attend(q, k, [values]))
        caches.append(cached)
    assert torch.allclose(results[0], results[1], atol=1e-6)
    assert torch.equal(caches[0].keys, caches[1].keys)
    assert torch.equal(caches[0].values, caches[1].values)
