"""Rewriting a model as one folder of safetensors, in the precision it runs in: fewer bytes to read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from service.model.checkpoints.family import Checkpoint, ConvertedFile
from service.model.checkpoints.loader import OnProgress, Stored, no_progress

_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_WRITABLE = {
    **_CODES,
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
PRECISIONS = {code.lower(): dtype for dtype, code in _CODES.items()}


def read_precision(name: str) -> torch.dtype | None:
    """The dtype of `bf16`, `f16` or `f32`, None of `stored`; ValueError for any other name."""
    if name != "stored" and name not in PRECISIONS:
        raise ValueError(f"--dtype must be one of {', '.join(PRECISIONS)} or stored, not {name!r}")
    return PRECISIONS.get(name)


def convert(
    checkpoint: Checkpoint, out: Path, dtype: torch.dtype | None = None, on_progress: OnProgress = no_progress
) -> None:
    """Write `out`, a model folder with config.json, safetensors files and the text encoder's folder.

    `dtype` is that of the transformer's blocks and of the text encoder; None: as stored. What runs in fp32 in
    any precision stays as it is, and so does the image tokenizer, which decides what a style is. Takes the
    memory of one tensor. ValueError when the model's files do not fit, or `out` exists, is being written or
    cannot be; it is written under another name until it is complete.
    """
    lock = out.with_name(f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                _convert(checkpoint, out, dtype, on_progress)
            finally:
                lock.unlink(missing_ok=True)
    except Timeout as error:
        raise ValueError(f"Another `atelier convert` is writing {out}") from error
    except OSError as error:
        raise ValueError(f"{out} could not be written: {error}") from error


def _convert(checkpoint: Checkpoint, out: Path, dtype: torch.dtype | None, on_progress: OnProgress) -> None:
    if out.exists():
        raise ValueError(f"{out} is there already: remove it, or choose another folder")
    conversion = checkpoint.conversion()
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for path in (*conversion.copies, *(file.path for file in conversion.files)):
        (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
    (unfinished / "config.json").write_text(conversion.config_json)
    for path, original in conversion.copies.items():
        shutil.copyfile(original, unfinished / path)
    for file in conversion.files:
        _rewrite(file, unfinished / file.path, dtype, on_progress)
    unfinished.rename(out)


def _rewrite(file: ConvertedFile, path: Path, dtype: torch.dtype | None, on_progress: OnProgress) -> None:
    """Under the released names; `file.halved` in `dtype` if that is given, everything else as stored."""
    stored, dtypes = file.weights.stored, dict.fromkeys(file.halved, dtype) if dtype else {}
    own_names = {name: own for own, name in file.naming.ours({name: name for name in stored}).items()}
    named = file.naming.released({own: name for name, own in own_names.items()})
    released = {name: new for new, name in named.items()}
    header = {
        released[name]: Stored(tensor.shape, dtypes.get(own_names[name], tensor.dtype))
        for name, tensor in stored.items()
        if name in own_names
    }
    tensors = ((released[name], tensor) for name, tensor in file.weights.tensors(list(own_names)))
    write_safetensors(path, header, tensors, on_progress)


def write_safetensors(
    file: Path,
    header: Mapping[str, Stored],
    tensors: Iterable[tuple[str, Tensor]],
    on_progress: OnProgress = no_progress,
) -> None:
    """Write tensors, which must come in the order of `header`, in the dtypes it names, holding one at a time.

    The library's own function needs all of them in memory. ValueError: a dtype that no weights have.
    """
    entries, num_bytes = {}, 0
    for name, described in header.items():
        shape, dtype = described.shape, described.dtype
        if dtype not in _WRITABLE:
            raise ValueError(f"{name} is stored as {dtype}; choose one of {', '.join(PRECISIONS)}")
        end = num_bytes + dtype.itemsize * torch.Size(shape).numel()
        entries[name] = {"dtype": _WRITABLE[dtype], "shape": shape, "data_offsets": (num_bytes, end)}
        num_bytes = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data start on a multiple of eight bytes
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for (name, described), (given, tensor) in zip(header.items(), tensors, strict=True):
            assert name == given
            stream.write(tensor.to(described.dtype).contiguous().flatten().view(torch.uint8).numpy().data)
            on_progress(file.name, stream.tell() - 8 - len(text), num_bytes)
        stream.flush()
        os.fsync(stream.fileno())
