"""Weight files on disk: what they hold, and their tensors one shard after the other."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# What to read where a folder has several: names as the transformers library gives them, then any single file.
_INDICES = (
    "model.safetensors.index.json",
    ".safetensors.index.json",
    "pytorch_model.bin.index.json",
    ".bin.index.json",
)
_SINGLE = ("model.safetensors", ".safetensors", "pytorch_model.bin", ".bin", ".pth")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file, unread."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of weights, closed."""

    path: Path
    nests: tuple[str, ...]
    stored: Mapping[str, Stored]

    def tensors(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors, mapped from the file for as long as anybody has them."""
        with _opened(self.path, self.nests) as read:
            for name in names:
                yield name, read(name)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights in a file, or in a folder of shards."""

    path: Path
    shards: tuple[Shard, ...]

    @property
    def stored(self) -> dict[str, Stored]:
        return {name: each for shard in self.shards for name, each in shard.stored.items()}

    def tensors(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors, shard after shard: no more than one shard is open at a time."""
        wanted = set(names)
        for shard in self.shards:
            yield from shard.tensors([name for name in shard.stored if name in wanted])


def open_weights(
    path: Path, *, nests: tuple[str, ...] = (), holds: Callable[[str], bool] | None = None
) -> Weights:
    """Look at a `.safetensors`, `.pth` or `.bin` file, or a folder of shards with their index.

    `nests` names entries under which a `.pth` file may keep its tensors; the first that is there is taken.
    Of a folder, only shards with a tensor for which `holds` is true are looked at and need to be there.
    ValueError with a sentence that names the file: it is missing, damaged or of another kind.
    """
    files = _shards(path, holds) if path.is_dir() else [path]
    return Weights(path, tuple(_look(file, nests) for file in files))


def shards_of(index: bytes, holds: Callable[[str], bool] | None = None) -> list[str]:
    """The file names in a shard index, in order; ValueError when it is none."""
    try:
        places: dict[str, str] = json.loads(index)["weight_map"]
        return sorted({file for name, file in places.items() if holds is None or holds(name)})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError("is not an index of shards: it has no weight_map") from error


def choose_weights(names: Sequence[str]) -> tuple[str, bool] | None:
    """Of the names in a folder, the weights to read and whether they are an index; None: no weights."""
    for endings, is_index in ((_INDICES, True), (_SINGLE, False)):
        for ending in endings:
            found = [ending] if ending in names else [name for name in names if name.endswith(ending)]
            if len(found) == 1:
                return found[0], is_index
    return None


def _shards(folder: Path, holds: Callable[[str], bool] | None) -> list[Path]:
    chosen = choose_weights([each.name for each in folder.iterdir()])
    if chosen is None:
        raise ValueError(
            f"{folder} holds no weights that can be told: it needs an index of shards "
            "(model.safetensors.index.json or pytorch_model.bin.index.json) or a single weight file"
        )
    name, is_index = chosen
    if not is_index:
        return [folder / name]
    try:
        files = [folder / shard for shard in shards_of((folder / name).read_bytes(), holds)]
    except ValueError as error:
        raise ValueError(f"{folder / name} {error}") from error
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file} is missing; {name} names it")
    return files


def _look(path: Path, nests: tuple[str, ...]) -> Shard:
    with _opened(path, nests) as read:
        held = {name: read(name) for name in read.names}
        return Shard(
            path, nests, {name: Stored(tuple(each.shape), each.dtype) for name, each in held.items()}
        )


@dataclass(frozen=True, slots=True)
class _Reader:
    names: tuple[str, ...]
    read: Callable[[str], Tensor]

    def __call__(self, name: str) -> Tensor:
        return self.read(name)


@contextmanager
def _opened(path: Path, nests: tuple[str, ...]) -> Iterator[_Reader]:
    """A file's tensors by name, mapped on the CPU for as long as they live; writing leaves the file alone."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    with path.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"version https://"):
        raise ValueError(f"{path} is the pointer that Git LFS leaves in the place of a file, not the weights")
    if path.suffix == ".safetensors":
        try:
            handle = safe_open(path, framework="pt").__enter__()
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
        try:
            yield _Reader(tuple(handle.keys()), handle.get_tensor)
        finally:
            handle.__exit__(None, None, None)
    else:
        tensors = _unpickled(path, nests, is_zip=start.startswith(b"PK"))
        yield _Reader(tuple(tensors), tensors.__getitem__)


def _unpickled(path: Path, nests: tuple[str, ...], *, is_zip: bool) -> dict[str, Tensor]:
    try:
        # Files older than torch 1.6 are no zip archives and cannot be mapped: their tensors are read at once.
        held = torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    for nest in nests:
        if isinstance(held, Mapping) and isinstance(held.get(nest), Mapping):
            held = held[nest]
            break
    if not isinstance(held, Mapping):
        raise ValueError(f"{path} holds a {type(held).__name__}, not named tensors")
    others = [str(name) for name, value in held.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"{path} holds other things than named tensors: {', '.join(others[:4])}. A checkpoint of a "
            "training run keeps its weights further in; save those alone."
        )
    return dict(held)


def _unreadable(path: Path, error: Exception) -> ValueError:
    """The first line of the library's error, and what it can mean."""
    lines = str(error).splitlines() or [type(error).__name__]
    if any("Unsupported global" in line for line in lines):
        return ValueError(
            f"{path} holds Python objects besides tensors, and reading those could run anything: "
            "save its tensors alone, best as .safetensors"
        )
    return ValueError(
        f"{path} cannot be read as a weight file: {path.stat().st_size:,} bytes, cut short or damaged or of "
        f"another kind ({lines[0]})"
    )
