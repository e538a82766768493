"""Names, shapes and files: what fits loads, what does not is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.model.checkpoint import load_into, read_tensors
from service.model.infinity.config import TokenizerConfig, TransformerConfig
from service.model.infinity.names import (
    tokenizer_from_official,
    tokenizer_to_official,
    transformer_from_official,
    transformer_to_official,
)
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer

KEYS = Path(__file__).parent / "golden" / "official_keys"
FLAN = 2048
TRANSFORMERS = {
    "infinity-2b": (
        TransformerConfig(depth=32, width=2048, num_heads=16, text_channels=FLAN, num_chunks=8),
        32,
    ),
    "infinity-8b": (
        TransformerConfig(depth=40, width=3584, num_heads=28, text_channels=FLAN, num_chunks=8),
        56,
    ),
    "infinity-125m": (
        TransformerConfig(depth=12, width=768, num_heads=8, text_channels=FLAN, num_chunks=4),
        16,
    ),
}
TOKENIZERS = {
    "infinity-2b": TokenizerConfig(
        num_bits=32, stride=16, channels=128, multipliers=(1, 2, 4, 4, 4), num_blocks=2
    ),
    "infinity-8b": TokenizerConfig(
        num_bits=14, stride=8, channels=128, multipliers=(1, 2, 4, 4), num_blocks=2
    ),
    "infinity-125m": TokenizerConfig(
        num_bits=16, stride=16, channels=128, multipliers=(1, 2, 4, 4, 4), num_blocks=2
    ),
}


def official(name: str, part: str) -> dict[str, list[int]]:
    stored: dict[str, list[int]] = json.loads((KEYS / f"{name}.{part}.json").read_text())
    return {key: shape for key, shape in stored.items() if "zero_k_bias" not in key and "lfq.mask" not in key}


def shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_has_exactly_the_official_names_and_shapes(name: str) -> None:
    config, bits = TRANSFORMERS[name]
    with torch.device("meta"):
        own = dict(Transformer(config, bits).named_parameters())
    per_chunk = config.blocks_per_chunk
    renamed = transformer_to_official(own, per_chunk)
    assert shapes(renamed) == official(name, "transformer")
    assert transformer_from_official(renamed, per_chunk).keys() == own.keys()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_image_tokenizer_has_exactly_the_official_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        own = dict(Tokenizer(TOKENIZERS[name]).named_parameters())
    renamed = tokenizer_to_official(own)
    assert shapes(renamed) == official(name, "tokenizer")
    assert tokenizer_from_official(renamed).keys() == own.keys()


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


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_both_kinds_of_file_are_read_and_damage_is_named(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    tensors = {"a": torch.arange(100.0)}
    save_file(tensors, file) if suffix == ".safetensors" else torch.save(tensors, file)
    assert torch.equal(read_tensors(file)["a"], tensors["a"])
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cannot be read as a weight file"):
        read_tensors(file)


def test_a_missing_file_and_a_file_of_other_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is missing"):
        read_tensors(tmp_path / "none.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        read_tensors(tmp_path / "list.pth")
