"""Checkpoints in the released form, of random weights: names, nesting, shards and shapes of the real ones.

`python -m tests.support.released_files infinity-2b FOLDER` writes them at their true size, in the memory of
one tensor: 4.4 GB of transformer in bf16, 4.9 GB of text encoder and 0.4 GB of image tokenizer in fp32, as
released.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import skip_data
from transformers import T5Config

from service.cli.progress import bars
from service.model.checkpoints.convert import write_safetensors
from service.model.checkpoints.loader import OnProgress, Shape, Stored, no_progress, shapes_of
from service.model.device.precision import Precision
from service.model.infinity.config import InfinityConfig
from service.model.infinity.model_folder import InfinityCheckpoint, empty_networks
from service.model.infinity.presets import RELEASED
from service.model.infinity.t5 import empty_encoder
from service.model.infinity.weight_names import tokenizer_to_official, transformer_to_official
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


def num_parameters(name: str) -> dict[str, int]:
    """Of a preset's networks."""
    networks = empty_networks(RELEASED[name].config)
    return {
        part: sum(parameter.numel() for parameter in network.parameters())
        for part, network in zip(("transformer", "tokenizer"), networks, strict=True)
    }


def weight_bytes(name: str, precision: Precision) -> int:
    """Of a preset, resident, text encoder included."""
    checkpoint = InfinityCheckpoint(RELEASED[name].config, Path())
    return checkpoint.weight_bytes(precision.blocks) + checkpoint.text_encoder_bytes(precision)


@dataclass(frozen=True, slots=True)
class RandomTensors(Mapping[str, Tensor]):
    """Random weights by name, drawn when they are asked for, so that only one is in memory.

    They leave activations finite: small matrices, norms of one, no biases.
    """

    shapes: Mapping[str, Shape]
    dtype: torch.dtype

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        if name.endswith("bias") or "mask" in name:
            return torch.zeros(shape, dtype=self.dtype)
        if len(shape) == 1:
            return torch.ones(shape, dtype=self.dtype)
        generator = torch.Generator().manual_seed(crc32(_SAME.get(name, name).encode()))
        return torch.empty(shape, dtype=self.dtype).normal_(0, 0.02, generator=generator)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


# A T5's file holds its words' table once more under this name.
_SAME = {"encoder.embed_tokens.weight": "shared.weight"}


def write_released(
    models_dir: Path,
    config: InfinityConfig,
    flan: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    on_progress: OnProgress = no_progress,
) -> None:
    """All files of a model, named and laid out as they are released; existing ones are written anew.

    `dtype` is the transformer's; the others have fp32, as released.
    """
    files = config.files
    transformer = RandomTensors(released_transformer(config), dtype)
    tokenizer = RandomTensors(released_tokenizer(config), torch.float32)
    if files.transformer.endswith(".pth"):
        write_pth(models_dir / files.transformer, transformer, on_progress=on_progress)
    else:
        write_shards(models_dir / files.transformer, transformer, num_shards=4, on_progress=on_progress)
    write_pth(models_dir / files.tokenizer, tokenizer, nest="vae", on_progress=on_progress)
    write_flan(models_dir / files.text_encoder, flan, torch.float32, on_progress)


def write_pth(
    file: Path, drawn: RandomTensors, *, nest: str = "", on_progress: OnProgress = no_progress
) -> None:
    """What `torch.save` writes of these tensors, under the entry `nest` if that is given, one by one."""
    write_sparse_pth(file, drawn.shapes, drawn.dtype, nest=nest)
    with FakeTensorMode():
        held = torch.load(file)
    places = {
        name: each.untyped_storage()._checkpoint_offset
        for name, each in (held[nest] if nest else held).items()
    }
    num_bytes = sum(drawn.dtype.itemsize * torch.Size(shape).numel() for shape in drawn.shapes.values())
    num_done = 0
    with file.open("r+b") as stream:
        for name, tensor in drawn.items():
            stream.seek(places[name])
            stream.write(tensor.flatten().view(torch.uint8).numpy().data)
            num_done += tensor.nbytes
            on_progress(file.name, num_done, num_bytes)


def write_sparse_pth(file: Path, shapes: Mapping[str, Shape], dtype: torch.dtype, *, nest: str = "") -> None:
    """The same with nothing written: zeros that take neither memory nor disk, whatever the size."""
    with FakeTensorMode():
        tensors = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    with skip_data(materialize_fake_tensors=True):
        torch.save({nest: tensors} if nest else tensors, file)


def write_sparse_shards(
    folder: Path, shapes: Mapping[str, Shape], dtype: torch.dtype, *, num_shards: int
) -> None:
    """The same as a folder of `.bin` shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, names in _shards(folder, list(shapes), num_shards, ".bin").items():
        write_sparse_pth(file, {name: shapes[name] for name in names}, dtype)


def released_transformer(config: InfinityConfig) -> dict[str, Shape]:
    """Official names and shapes, the constant buffers among them."""
    transformer, _ = empty_networks(config)
    shapes = transformer_to_official(shapes_of(transformer), config.transformer.blocks_per_chunk)
    for name, shape in list(shapes.items()):
        if name.endswith(("sa.v_bias", "ca.v_bias")):
            shapes[name.replace("v_bias", "zero_k_bias")] = shape
    return shapes


def released_tokenizer(config: InfinityConfig) -> dict[str, Shape]:
    _, tokenizer = empty_networks(config)
    masks = {f"{name}.lfq.mask": (config.tokenizer.num_bits,) for name in ("quantizer", "quantize")}
    return tokenizer_to_official(shapes_of(tokenizer)) | masks


def write_shards(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    num_shards: int,
    suffix: str = ".safetensors",
    left_out: tuple[int, ...] = (),
    on_progress: OnProgress = no_progress,
) -> list[Path]:
    """`model-0000i-of-0000n` and their index, as the transformers library writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(folder, list(tensors), num_shards, suffix)
    for index, (file, names) in enumerate(shards.items()):
        if index not in left_out:
            _write_shard(file, tensors, names, on_progress)
    return list(shards)


def _shards(folder: Path, names: Sequence[str], num_shards: int, suffix: str) -> dict[Path, Sequence[str]]:
    """Writes the index of so many shards, and tells what belongs into each."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    per_shard = -(-len(names) // num_shards)
    shards = {
        folder / f"{stem}-{shard + 1:05}-of-{num_shards:05}{suffix}": names[
            shard * per_shard : (shard + 1) * per_shard
        ]
        for shard in range(num_shards)
    }
    weight_map = {name: file.name for file, held in shards.items() for name in held}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return shards


def _write_shard(
    file: Path, tensors: Mapping[str, Tensor], names: Sequence[str], on_progress: OnProgress
) -> None:
    if isinstance(tensors, RandomTensors):
        part = RandomTensors({name: tensors.shapes[name] for name in names}, tensors.dtype)
        if file.suffix == ".safetensors":
            header = {name: Stored(shape, part.dtype) for name, shape in part.shapes.items()}
            write_safetensors(file, header, part.items(), on_progress)
        else:
            write_pth(file, part, on_progress=on_progress)
    else:
        held = {name: tensors[name] for name in names}
        save_file(held, file) if file.suffix == ".safetensors" else torch.save(held, file)


def write_flan(
    folder: Path, shape: Mapping[str, Any], dtype: torch.dtype, on_progress: OnProgress = no_progress
) -> None:
    """A T5 as it is after `atelier fetch`: its index names a shard of the decoder that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(folder)
    settings = T5Config(**shape).to_dict() | {"architectures": ["T5ForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(settings))
    encoder = empty_encoder(folder / "config.json", torch.device("meta"), dtype)
    shapes = {name: tuple(parameter.shape) for name, parameter in encoder.named_parameters()}
    shapes = {again: shapes[name] for again, name in _SAME.items()} | shapes
    shapes |= {"decoder.final_layer_norm.weight": (1,)}
    shapes |= {f"decoder.block.{index}.weight": (1,) for index in range(len(shapes))}
    write_shards(folder, RandomTensors(shapes, dtype), num_shards=2, left_out=(1,), on_progress=on_progress)


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with bars() as on_progress:
        write_released(folder, RELEASED[name].config, FLAN_XL, torch.bfloat16, on_progress)
