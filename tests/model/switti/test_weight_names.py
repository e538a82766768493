"""Names, shapes and files: the presets' modules are the released ones, and what does not fit is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.model.checkpoints.loader import load_weights, open_weights
from service.model.switti.config import SwittiConfig
from service.model.switti.presets import PRESETS, TOKENIZER
from service.model.switti.tokenizer import Tokenizer
from service.model.switti.transformer import Transformer
from service.model.switti.weight_names import (
    TOKENIZER_NAMING,
    TRANSFORMER_NAMING,
    text_from_released,
    text_to_released,
    tokenizer_from_official,
    tokenizer_to_official,
    transformer_from_official,
    transformer_to_official,
)
from tests.support.tiny_switti import tiny_config, tiny_networks

KEYS = Path(__file__).parents[2] / "golden" / "official_keys"
BUFFERS = {"lvl_1L", "attn_bias_for_masking", "quantize.ema_vocab_hit_SV"}
Shapes = dict[str, tuple[int, ...]]


def official(name: str) -> Shapes:
    stored = json.loads((KEYS / f"{name}.json").read_text())
    return {key: tuple(shape) for key, shape in stored.items() if key not in BUFFERS}


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def empty(config: SwittiConfig) -> tuple[Transformer, Tokenizer]:
    with torch.device("meta"):
        return (
            Transformer(config.transformer, config.tokenizer, len(config.grids)),
            Tokenizer(config.tokenizer),
        )


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_modules_have_exactly_the_official_names_and_shapes(name: str) -> None:
    transformer, tokenizer = (shapes_of(module) for module in empty(PRESETS[name].config))
    assert transformer_to_official(transformer) == official(f"{name.removesuffix('-ar')}.transformer")
    assert tokenizer_to_official(tokenizer) == official("switti.tokenizer")
    assert transformer_from_official(transformer_to_official(transformer)) == transformer
    assert tokenizer_from_official(tokenizer_to_official(tokenizer)) == tokenizer


def test_the_released_models_have_the_size_that_they_are_known_for() -> None:
    counts = {
        name: sum(math.prod(shape) for shape in shapes_of(empty(preset.config)[0]).values())
        for name, preset in PRESETS.items()
    }
    assert {round(count / 1e9, 2) for count in counts.values()} == {2.47}
    _, tokenizer = empty(PRESETS["switti-512"].config)
    assert round(sum(math.prod(shape) for shape in shapes_of(tokenizer).values()) / 1e9, 3) == 0.109
    assert TOKENIZER.stride == 16
    assert {name: preset.config.pixels for name, preset in PRESETS.items()} == {
        "switti-512": 512, "switti-512-ar": 512, "switti-1024": 1024, "switti-1024-ar": 1024,
    }  # fmt: skip


def test_constant_buffers_are_accepted_in_silence_and_strange_names_kept() -> None:
    assert transformer_from_official({"lvl_1L": 1, "attn_bias_for_masking": 1, "spare": 2}) == {"spare": 2}
    assert tokenizer_from_official({"quantize.ema_vocab_hit_SV": 1, "spare": 2}) == {"spare": 2}


def test_of_a_clip_the_text_tower_alone_is_read() -> None:
    released = {
        "text_model.final_layer_norm.weight": 1,
        "text_model.embeddings.position_ids": 2,
        "text_projection.weight": 3,
        "vision_model.post_layernorm.weight": 4,
        "logit_scale": 5,
    }
    assert text_from_released(released) == {"final_layer_norm.weight": 1}
    assert text_to_released({"final_layer_norm.weight": 1}) == {"text_model.final_layer_norm.weight": 1}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a small model's two files, by file, with the buffers of the released ones."""
    networks = tiny_networks()
    transformer = transformer_to_official(dict(networks.transformer.named_parameters()))
    tokenizer = tokenizer_to_official(dict(networks.tokenizer.named_parameters()))
    return {
        "transformer": transformer | {"lvl_1L": torch.zeros(3), "attn_bias_for_masking": torch.zeros(3)},
        "tokenizer": tokenizer | {"quantize.ema_vocab_hit_SV": torch.zeros(3)},
    }


def load(part: str, tensors: dict[str, Tensor], folder: Path) -> nn.Module:
    file = folder / f"{part}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    transformer, tokenizer = empty(tiny_config())
    module, naming = (
        (transformer, TRANSFORMER_NAMING) if part == "transformer" else (tokenizer, TOKENIZER_NAMING)
    )
    module.to_empty(device="cpu").requires_grad_(False)
    load_weights(module, open_weights(file), naming, model=f"the {part}")
    return module


@pytest.mark.parametrize("part", ["transformer", "tokenizer"])
def test_released_files_load_every_weight(
    part: str, files: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    module, expected = load(part, files[part], tmp_path), getattr(tiny_networks(), part)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name))


@pytest.mark.parametrize(
    ("part", "name", "shape", "sentence"),
    [
        ("transformer", "blocks.1.ada_lin.1.bias", None, r"1 tensors missing: blocks\.1\.ada_lin\.1\.bias"),
        ("transformer", "head.weight", (50, 33), r"of another shape: head\.weight is 50x33, not 50x32"),
        ("transformer", "spare.weight", (3,), r"1 tensors unexpected: spare\.weight"),
        (
            "tokenizer",
            "quantize.quant_resi.qresi_ls.3.weight",
            None,
            r"1 tensors missing: quantize\.quant_resi",
        ),
        ("tokenizer", "quantize.embedding.weight", (51, 8), r"quantize\.embedding\.weight is 51x8, not 50x8"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_as_in_the_file(
    part: str,
    name: str,
    shape: tuple[int, ...] | None,
    sentence: str,
    files: dict[str, dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    tensors = files[part]
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=sentence):
        load(part, tensors, tmp_path)
