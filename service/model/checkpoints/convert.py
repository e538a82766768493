"""Rewriting a model as one folder of safetensors, in the precision it runs in: fewer bytes to read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from service.model.checkpoints.loader import (
    Naming,
    OnProgress,
    Stored,
    Weights,
    match,
    no_progress,
    open_weights,
)
from service.model.checkpoints.registry import ModelLocation
from service.model.infinity.config import FilesConfig
from service.model.infinity.model_folder import Part, open_parts
from service.model.infinity.t5 import empty_encoder
from service.model.infinity.transformer import Transformer
from service.model.infinity.weight_names import TEXT_NAMING, is_text_encoder

_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
PRECISIONS = {code.lower(): dtype for dtype, code in _CODES.items()}


def read_precision(name: str) -> torch.dtype | None:
    """The dtype of `bf16`, `f16` or `f32`, None of `stored`; ValueError for any other name."""
    if name != "stored" and name not in PRECISIONS:
        raise ValueError(f"--dtype must be one of {', '.join(PRECISIONS)} or stored, not {name!r}")
    return PRECISIONS.get(name)


def convert(
    place: ModelLocation, out: Path, dtype: torch.dtype | None = None, on_progress: OnProgress = no_progress
) -> None:
    """Write `out`, a model folder with config.json, two safetensors files and text_encoder/.

    `dtype` is that of the transformer's blocks and of the text encoder; None: as stored. What runs in fp32 in
    any precision stays as it is, and so does the image tokenizer, which decides what a style is. Takes the
    memory of one tensor. ValueError when the model's files do not fit, or `out` is there already; nothing is
    named `out` before it is whole.
    """
    if out.exists():
        raise ValueError(f"{out} is there already: remove it, or choose another folder")
    config, files = place.config, FilesConfig()
    parts = open_parts(config, place.folder)
    text_folder = place.folder / config.files.text_encoder
    text = open_weights(text_folder, holds=is_text_encoder)
    encoder = empty_encoder(text_folder / "config.json", torch.device("meta"), torch.float32)
    shapes = {name: tuple(parameter.shape) for name, parameter in encoder.named_parameters()}
    match(shapes, text, TEXT_NAMING, model="the text encoder")

    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / files.text_encoder).mkdir(parents=True)
    (unfinished / "config.json").write_text(replace(config, files=files).to_json())
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(text_folder / name, unfinished / files.text_encoder / name)
    transformer, tokenizer = parts.transformer, parts.tokenizer
    text_file, halved = unfinished / files.text_encoder / "model.safetensors", _halved(transformer)
    _rewrite(text, TEXT_NAMING, text_file, dict.fromkeys(shapes, dtype) if dtype else {}, on_progress)
    _rewrite(tokenizer.weights, tokenizer.naming, unfinished / files.tokenizer, {}, on_progress)
    chosen = dict.fromkeys(halved, dtype) if dtype else {}
    _rewrite(transformer.weights, transformer.naming, unfinished / files.transformer, chosen, on_progress)
    unfinished.rename(out)


def _halved(transformer: Part) -> list[str]:
    """Names of what is not in fp32 when a model runs in half precision."""
    module = transformer.module
    assert isinstance(module, Transformer)
    module.hold_blocks_in(torch.bfloat16)
    return [name for name, parameter in module.named_parameters() if parameter.dtype == torch.bfloat16]


def _rewrite(
    weights: Weights, naming: Naming, file: Path, dtypes: Mapping[str, torch.dtype], on_progress: OnProgress
) -> None:
    """`dtypes` by our names; what it does not name stays as stored."""
    stored = weights.stored
    own_names = {name: own for own, name in naming.ours({name: name for name in stored}).items()}
    released = {own: name for name, own in naming.released({own: own for own in own_names.values()}).items()}
    kept = {name: each for name, each in stored.items() if name in own_names}
    header = {
        released[own_names[name]]: Stored(each.shape, dtypes.get(own_names[name], each.dtype))
        for name, each in kept.items()
    }
    tensors = ((released[own_names[name]], tensor) for name, tensor in weights.tensors(list(own_names)))
    write_safetensors(file, header, tensors, on_progress)


def write_safetensors(
    file: Path,
    header: Mapping[str, Stored],
    tensors: Iterable[tuple[str, Tensor]],
    on_progress: OnProgress = no_progress,
) -> None:
    """A safetensors file of tensors that come in the order of `header`, converted to the dtypes it names.

    The library writes only what is in memory at once. ValueError: a dtype that is none of the known.
    """
    entries, num_bytes = {}, 0
    for name, each in header.items():
        if each.dtype not in _CODES:
            raise ValueError(f"{name} is stored as {each.dtype}; choose one of {', '.join(PRECISIONS)}")
        end = num_bytes + each.dtype.itemsize * torch.Size(each.shape).numel()
        entries[name] = {"dtype": _CODES[each.dtype], "shape": each.shape, "data_offsets": (num_bytes, end)}
        num_bytes = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data start on a multiple of eight bytes
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for (name, each), (given, tensor) in zip(header.items(), tensors, strict=True):
            assert name == given
            stream.write(tensor.to(each.dtype).contiguous().flatten().view(torch.uint8).numpy().data)
            on_progress(file.name, stream.tell() - 8 - len(text), num_bytes)
        stream.flush()
        os.fsync(stream.fileno())
