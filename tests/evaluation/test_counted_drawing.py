"""Launches, bytes and operations of drawing, counted without values, beside those of really drawing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.bench import counts
from service.evaluation.compiled_kernels import kernels_compiled
from service.evaluation.counted_drawing import CountedInfinity, DrawnKernels, count_compiled, count_drawing
from service.evaluation.flops import Batch, floor
from service.evaluation.launches import Kernel, Kind, Totals, attention_kernel, counting
from service.evaluation.random_weights import shape_of
from service.model.block_runner import run_block
from service.model.infinity.config import StyleConfig
from tests.support.specs import SQUARE
from tests.support.tiny import tiny_config

pytestmark = [
    pytest.mark.slow,
    # Importing torch's compiler uses what torch has deprecated.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
]


# The compiler takes seconds for each graph, of whatever size.
TINY = tiny_config(
    transformer=replace(tiny_config().transformer, depth=1),
    tokenizer=replace(tiny_config().tokenizer, stride=1, multipliers=(1,), num_blocks=0),
    style=StyleConfig(key_step=1, alpha=1.0),
    grids=(((1, 1), (8, 8)),),
)


@cache
def drawn() -> tuple[DrawnKernels, DrawnKernels]:
    """Of one stylised image: eager and compiled."""
    infinity = CountedInfinity.of(TINY)
    eager = count_drawing(infinity)
    return eager, count_compiled(infinity, eager)


def moved(kernels: Iterable[Kernel]) -> Totals:
    return Totals.of(kernel for kernel in kernels if kernel.kind is Kind.ELEMENTWISE)


def test_operations_of_tensors_without_values_are_the_methods() -> None:
    infinity = CountedInfinity.of(tiny_config())
    least = floor(infinity.config, infinity.schedules[SQUARE], Batch(num_text_tokens=16))
    eager = count_drawing(infinity)
    assert [len(step.blocks) for step in eager.steps] == [3] * 6
    assert [step.num_tokens for step in eager.steps] == [1, 4, 9, 16, 36, 64]
    # Text attention is done in full, with padding, where the least folds it, and weights are not shared.
    assert least.total <= Totals.of(eager).flops <= 1.35 * least.total
    assert Totals.of(eager.decode).flops == least.decode.total


def test_compiled_code_does_the_same_and_launches_and_moves_less() -> None:
    eager, compiled = drawn()
    assert [len(step.blocks) for step in eager.steps] == [1, 1]
    for before, after in zip(eager.steps, compiled.steps, strict=True):
        assert after.others == before.others
        head, draws = after.ends
        assert len(head.kernels) <= 5  # a norm, a product, guidance, whether all is finite in two parts
        assert len(draws.kernels) <= 3
        assert sum(len(call.kernels) for call in before.ends) > 20
        for block, planned in zip(before.blocks, after.blocks, strict=True):
            assert len(planned.kernels) < 0.7 * len(block.kernels)
            assert Totals.of(planned.kernels).flops == Totals.of(block.kernels).flops
    assert Totals.of(compiled.decode).flops == Totals.of(eager.decode).flops
    assert moved(compiled.steps[1]).num_bytes < 0.7 * moved(eager.steps[1]).num_bytes


def test_a_compiled_layer_of_the_2b_model_launches_and_moves_what_an_image_of_180_gb_allows() -> None:
    """The last step's, of 4096 tokens and four rows, of what Inductor plans; an image has 10 521 tokens."""
    infinity = CountedInfinity.of(shape_of("infinity-2b"))  # type: ignore[arg-type]
    block = count_drawing(infinity).steps[-1].blocks[0]
    with torch.inference_mode():
        kernels = kernels_compiled(run_block, *block.arguments)
    assert len(kernels) <= 28
    assert moved(kernels).num_bytes * 32 * 10521 / 4096 <= 160e9  # and 20 GB for all beside the layers
    shared = [kernel for kernel in kernels if kernel.kind is Kind.ATTENTION]
    assert max(kernel.flops for kernel in shared) == 2 * 4096 * 10521 * 2048 * (2 + 4)


def test_views_and_allocations_launch_nothing_and_attention_is_one_kernel() -> None:
    x = torch.empty(2, 3, 4, 8, dtype=torch.bfloat16, device="meta")
    with torch.inference_mode(), counting() as counter:
        x.transpose(1, 2).flatten(2).view(-1)[3:]
        torch.empty_like(x)
        assert counter.kernels == counter.kernels[:1]  # the flattened copy of what was transposed
        F.scaled_dot_product_attention(x, x, x)
        F.linear(x, torch.empty(16, 8, device="meta", dtype=torch.bfloat16))
    copy, attention, product = counter.kernels
    assert (copy.kind, copy.num_bytes) == (Kind.ELEMENTWISE, 2 * x.nbytes)
    assert attention == attention_kernel(x, x, x)
    assert (attention.num_bytes, attention.flops) == (4 * x.nbytes, 2 * 2 * 2 * 3 * 4 * 4 * 8)
    assert (product.kind, product.flops, product.is_fp32) == (Kind.PRODUCT, 2 * 24 * 16 * 8, False)


def test_the_compilers_kernels_are_those_it_would_launch() -> None:
    x, weight = (torch.empty(64, 64, device="meta") for _ in range(2))

    def two_sums_a_product_and_a_norm(x: Tensor, weight: Tensor) -> Tensor:
        return (torch.mm(x + 1 - 2, weight) * 3).softmax(-1)

    with torch.inference_mode():
        before, product, after = kernels_compiled(two_sums_a_product_and_a_norm, x, weight)
    assert [before.kind, product.kind, after.kind] == [Kind.ELEMENTWISE, Kind.PRODUCT, Kind.ELEMENTWISE]
    assert before.num_bytes == after.num_bytes == 2 * x.nbytes
    assert (product.num_bytes, product.flops) == (3 * x.nbytes, 2 * 64**3)


def test_a_roofline_is_the_longer_of_operations_and_traffic_kernel_by_kernel() -> None:
    a6000 = counts.GPUS[0]
    x = torch.empty(1, 8, 4096, 128, dtype=torch.bfloat16, device="meta")
    attention = attention_kernel(x, x, x)
    assert a6000.seconds(attention) == attention.flops / 154.8e12
    assert a6000.seconds(attention_kernel(x.float(), x.float(), x.float())) == attention.flops / 38.7e12
    few = attention_kernel(x[:, :, :1], x, x)
    assert a6000.seconds(few) == few.num_bytes / 768e9


def test_the_report_has_both_forms_by_kind_by_step_and_on_each_gpu() -> None:
    with pytest.raises(ValueError, match="counts what an Infinity launches, and bench-switti-512 is none"):
        counts.measure_counts("bench-switti-512")
    with pytest.raises(ValueError, match="nano draws 64x64, not 65x64"):
        counts.measure_counts("nano", "65x64")
    eager, compiled = drawn()
    findings = counts.findings_of(eager, compiled)
    titles = [table.title for table in findings.tables]
    assert titles == [
        "one stylised image, eager", "one stylised image, compiled", "a layer of each step",
        "least time, eager", "least time, compiled",
    ]  # fmt: skip
    in_all = findings.tables[0].rows[-1].values
    assert in_all["num_launches"] == len(list(eager))
    for row in findings.tables[3].rows:
        together = row.values["together_seconds"]
        assert isinstance(together, float)
        assert together >= max(row.values["at_the_peaks_seconds"], row.values["of_the_host_seconds"])  # type: ignore[type-var, operator]
