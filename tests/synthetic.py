"""Checkpoints in the released form, of random weights: names, nesting, shards and shapes of the real ones.

`python -m tests.synthetic infinity-2b FOLDER` writes them at their true size, bf16: 9 GB for the 2B model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import T5Config

from service.model.checkpoint import Shape
from service.model.infinity.config import InfinityConfig
from service.model.infinity.names import tokenizer_to_official, transformer_to_official
from service.model.infinity.released import RELEASED, expected_shapes
from service.model.infinity.text import empty_encoder
from service.model.nano.words import write_vocabulary

FLAN_XL: dict[str, Any] = {
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
FLAN_TINY: dict[str, Any] = FLAN_XL | {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 512,
}


def shrunk(name: str) -> InfinityConfig:
    """A released configuration with its parts, patch and file names, narrow enough for a test."""
    config = RELEASED[name].config
    return replace(
        config,
        transformer=replace(
            config.transformer, depth=4, width=64, num_heads=2, text_channels=128, num_chunks=2
        ),
        tokenizer=replace(config.tokenizer, channels=8, num_blocks=1, num_groups=4),
        budget="0.06M",
    )


def write_released(
    models_dir: Path, config: InfinityConfig, flan: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """All files of a model, named and laid out as they are released; existing ones are left alone."""
    files = config.files
    transformer = released_transformer(config)
    if files.transformer.endswith(".pth"):
        torch.save(drawn(transformer, dtype), models_dir / files.transformer)
    else:
        write_shards(models_dir / files.transformer, drawn(transformer, dtype), num_shards=4)
    torch.save({"vae": drawn(released_tokenizer(config), torch.float32)}, models_dir / files.tokenizer)
    write_flan(models_dir / files.text_encoder, flan, dtype)


def released_transformer(config: InfinityConfig) -> dict[str, Shape]:
    """Official names and shapes, the constant buffers among them."""
    own, _ = expected_shapes(config)
    shapes = transformer_to_official(own, config.transformer.blocks_per_chunk)
    for name, shape in list(shapes.items()):
        if name.endswith(("sa.v_bias", "ca.v_bias")):
            shapes[name.replace("v_bias", "zero_k_bias")] = shape
    return shapes


def released_tokenizer(config: InfinityConfig) -> dict[str, Shape]:
    _, own = expected_shapes(config)
    masks = {f"{name}.lfq.mask": (config.tokenizer.num_bits,) for name in ("quantizer", "quantize")}
    return tokenizer_to_official(own) | masks


def drawn(shapes: Mapping[str, Shape], dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Weights that leave activations finite: small matrices, norms of one, no biases."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: Shape) -> Tensor:
        if name.endswith("bias") or "mask" in name:
            return torch.zeros(shape, dtype=dtype)
        if len(shape) == 1:
            return torch.ones(shape, dtype=dtype)
        return torch.empty(shape, dtype=dtype).normal_(0, 0.02, generator=generator)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def write_shards(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    num_shards: int,
    suffix: str = ".safetensors",
    left_out: tuple[int, ...] = (),
) -> list[Path]:
    """`model-0000i-of-0000n` and their index, as the transformers library writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names, files = list(tensors), list[Path]()
    weight_map: dict[str, str] = {}
    per_shard = -(-len(names) // num_shards)
    for shard in range(num_shards):
        held = {name: tensors[name] for name in names[shard * per_shard : (shard + 1) * per_shard]}
        file = folder / f"{stem}-{shard + 1:05}-of-{num_shards:05}{suffix}"
        weight_map |= dict.fromkeys(held, file.name)
        if shard not in left_out:
            save_file(held, file) if suffix == ".safetensors" else torch.save(held, file)
        files.append(file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return files


def write_flan(folder: Path, shape: Mapping[str, Any], dtype: torch.dtype) -> None:
    """A T5 as it is after `atelier fetch`: its index names a shard of the decoder that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(folder)
    settings = T5Config(**shape).to_dict() | {"architectures": ["T5ForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(settings))
    encoder = empty_encoder(folder / "config.json", torch.device("meta"), dtype)
    shapes = {name: tuple(each.shape) for name, each in encoder.named_parameters()}
    shapes |= {"decoder.final_layer_norm.weight": (1,)}
    shapes |= {f"decoder.block.{index}.weight": (1,) for index in range(len(shapes))}
    tensors = drawn(shapes, dtype)
    again = {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}
    write_shards(folder, again | tensors, num_shards=2, left_out=(1,))


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    write_released(folder, RELEASED[name].config, FLAN_XL, torch.bfloat16)
