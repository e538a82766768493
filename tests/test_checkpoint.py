"""Names, shapes and files: what fits loads, what does not is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from service.model.checkpoint import load_into
from service.model.infinity.names import tokenizer_from_official, transformer_from_official
from service.model.infinity.released import RELEASED, expected_shapes
from tests.synthetic import released_tokenizer, released_transformer

KEYS = Path(__file__).parent / "golden" / "official_keys"


def official(name: str, part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the reference; both 8B checkpoints have the same."""
    stored = json.loads((KEYS / f"{name.removesuffix('-512')}.{part}.json").read_text())
    return {key: tuple(shape) for key, shape in stored.items()}


@pytest.mark.parametrize("name", RELEASED)
def test_a_preset_expects_exactly_the_official_names_and_shapes(name: str) -> None:
    config = RELEASED[name].config
    assert released_transformer(config) == official(name, "transformer")
    assert released_tokenizer(config) == official(name, "tokenizer")


@pytest.mark.parametrize("name", RELEASED)
def test_every_name_of_a_released_file_is_one_of_ours(name: str) -> None:
    config = RELEASED[name].config
    transformer, tokenizer = expected_shapes(config)
    stored = released_transformer(config)
    assert transformer_from_official(stored, config.transformer.blocks_per_chunk) == transformer
    assert tokenizer_from_official(released_tokenizer(config)) == tokenizer


def test_unwrapped_names_and_constant_buffers_are_accepted_in_silence() -> None:
    zero = torch.zeros(1)
    names = [
        "encoder.conv_in.weight",
        "decoder.up.1.upsample.conv.weight",
        "quantizer.lfq.mask",
        "quantize.lfq.mask",
    ]
    assert list(tokenizer_from_official(dict.fromkeys(names, zero))) == [
        *names[:1],
        "decoder.up.1.resample.conv.weight",
    ]
    buffer = {"block_chunks.0.module.0.sa.zero_k_bias": zero}
    assert transformer_from_official(buffer, 1) == {}


def test_an_official_name_that_is_none_of_ours_is_reported_by_that_name() -> None:
    renamed = transformer_from_official({"surprise.weight": torch.zeros(1)}, 1)
    with pytest.raises(
        ValueError, match=r"file\.pth.*1 tensors missing: weight.*1 tensors unexpected: surprise\.weight"
    ):
        load_into(nn.Linear(1, 1, bias=False), renamed, source="file.pth")


def test_a_tensor_of_another_shape_is_named_with_both() -> None:
    with pytest.raises(ValueError, match="weight is 2x3, not 3x2"):
        load_into(nn.Linear(2, 3, bias=False), {"weight": torch.zeros(2, 3)}, source="x")


def test_many_differences_are_counted_not_listed() -> None:
    with pytest.raises(ValueError, match="9 tensors unexpected: a0, a1, a2, a3 and 5 more"):
        load_into(nn.Identity(), {f"a{index}": torch.zeros(1) for index in range(9)}, source="x")


def test_half_precision_files_load_into_fp32() -> None:
    module = nn.Linear(2, 1, bias=False)
    load_into(module, {"weight": torch.tensor([[0.5, -2.0]]).half()}, source="x")
    assert module.weight.dtype == torch.float32
    assert module.weight.tolist() == [[0.5, -2.0]]
