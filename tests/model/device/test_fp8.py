"""Products in fp8: how near they are, what is held in it, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from service.evaluation.random_weights import random_infinity, random_switti
from service.evaluation.verify_half import agreement_on, overall
from service.model.checkpoints import registry
from service.model.checkpoints.options import LoadOptions
from service.model.device.fp8 import Fp8Linear, Fp8Matrix, hold_in_fp8, is_in_fp8, require_capability
from service.model.device.linear import linear
from service.model.device.precision import choose
from service.model.engine.generator import Generator
from service.model.infinity.backbone import Infinity
from service.model.switti.backbone import Switti
from tests.support.specs import SQUARE, specs
from tests.support.tiny import tiny_config
from tests.support.tiny_switti import served_config

CPU = torch.device("cpu")
IN_FP8 = choose(CPU, precision="fp8")
MAKERS: dict[str, Callable[[], Infinity | Switti]] = {
    "infinity": lambda: random_infinity(tiny_config(), precision=IN_FP8),
    "switti": lambda: random_switti(served_config(), precision=IN_FP8),
}


@given(st.integers(1, 40), st.sampled_from([16, 48, 256]), st.sampled_from([16, 32, 80]), st.integers(0, 99))
def test_a_product_is_near_to_the_exact_one_and_each_row_and_output_has_a_scale_of_its_own(
    num_rows: int, inputs: int, outputs: int, seed: int
) -> None:
    torch.manual_seed(seed)
    # Rows and outputs of sizes that no common scale would hold: e4m3 has 17 binades.
    x = (torch.randn(num_rows, inputs) * 10.0 ** torch.randint(-6, 6, (num_rows, 1))).bfloat16()
    weight = torch.randn(outputs, inputs) * 10.0 ** torch.randint(-6, 6, (outputs, 1))
    ours, exact = linear(x, Fp8Matrix.of(weight)), x.double() @ weight.double().T
    lengths = x.double().norm(dim=1)[:, None] * weight.double().norm(dim=1)
    # Each factor is off by 2^-4 of itself at most, and in the mean by a fraction of that.
    assert ((ours - exact).abs() <= 2**-3 * lengths).all()
    assert ours.dtype == torch.bfloat16


def test_rows_of_zeros_give_the_bias_and_slices_are_those_of_the_matrix() -> None:
    torch.manual_seed(0)
    matrix, bias = Fp8Matrix.of(torch.randn(48, 32)), torch.randn(48)
    assert torch.equal(linear(torch.zeros(2, 3, 32), matrix, bias), bias.bfloat16().expand(2, 3, 48))
    x = torch.randn(5, 32)
    assert torch.equal(linear(x, matrix[16:]), linear(x, matrix)[:, 16:])
    gelu = nn.functional.gelu(linear(x, matrix, bias), approximate="tanh")
    assert torch.equal(linear(x, matrix, bias, gelu=True), gelu)
    assert torch.equal(matrix.float(), matrix.values.float() * matrix.scales)


def test_layers_are_replaced_but_those_whose_sides_no_kernel_takes() -> None:
    inner = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 40))
    module = nn.ModuleList([inner, nn.LayerNorm(8)])
    assert not is_in_fp8(module)
    hold_in_fp8(module)
    assert [type(part) for part in inner] == [Fp8Linear, nn.GELU, nn.Linear]
    assert is_in_fp8(module)
    assert inner[0](torch.randn(2, 32)).shape == (2, 48)
    assert {name: parameter.dtype for name, parameter in inner[0].named_parameters()} == {
        "values": torch.float8_e4m3fn,
        "scales": torch.float32,
        "bias": torch.float32,
    }


@cache
def generator_in_fp8(backbone: str) -> Generator:
    return Generator(MAKERS[backbone]())


@pytest.mark.parametrize("backbone", MAKERS)
def test_a_model_in_fp8_draws_all_that_one_in_bf16_does_and_says_what_it_is(backbone: str) -> None:
    generator = generator_in_fp8(backbone)
    assert generator.precision == "fp8"
    model = generator.backbone
    assert isinstance(model, Infinity | Switti)
    assert all(is_in_fp8(block) for block in model.transformer.blocks)
    assert not is_in_fp8(model.tokenizer)
    in_bf16 = choose(CPU, precision="bf16")
    make = random_infinity(tiny_config(), precision=in_bf16) if backbone == "infinity" else None
    beside = make or random_switti(served_config(), precision=in_bf16)
    assert beside.precision == "bf16"
    assert model.resident_bytes < beside.resident_bytes
    batch = specs(generator, SQUARE)[:4]
    drawn = [drawing.image for drawing in generator.generate(batch)]
    assert all(image.shape == (64, 64, 3) for image in drawn)
    assert not np.array_equal(drawn[0], Generator(beside).generate(batch[:1])[0].image)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", MAKERS)
def test_a_block_in_fp8_is_traced_whole(backbone: str) -> None:
    traced = MAKERS[backbone]()
    traced.is_fused = True
    generator = Generator(traced)
    batch = specs(generator, SQUARE)[:1]
    expected = generator.generate(batch)[0].image
    traced.compile(backend="eager")
    assert np.abs(generator.generate(batch)[0].image.astype(int) - expected.astype(int)).mean() < 1


@pytest.mark.slow
def test_nano_in_fp8_agrees_with_fp32_in_most_bits_and_less_than_in_bf16() -> None:
    bf16, fp8 = (
        overall(agreement_on("nano", precision, num_prompts=8).runs) for precision in ("bf16", "fp8")
    )
    assert 0.9 < fp8 < bf16 < 1
    assert bf16 > 0.99


def test_agreement_is_asked_of_models_that_draw_bits(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="There is no model"):
        agreement_on(f"{tmp_path}/none", "fp8")


def test_no_image_is_promised_to_be_the_same_in_any_batch() -> None:
    generator = registry.load("nano", "cpu", choices=LoadOptions(precision="fp8"))
    assert registry.row_tile_of(generator) is None
    assert generator.precision == "fp8"


def test_a_gpu_without_fp8_is_refused_with_some_that_have_it() -> None:
    with pytest.raises(ValueError, match=r"NVIDIA RTX A6000 \(compute capability 8\.6\).*such as an L4"):
        require_capability((8, 6), "NVIDIA RTX A6000")
    require_capability((8, 9), "NVIDIA L4")
    require_capability((9, 0), "NVIDIA H100")
