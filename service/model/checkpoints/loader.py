"""Weight files, and weights into modules: every difference from the model is an error that names it."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

log = logging.getLogger(__name__)
_MAX_NAMED = 10  # differences spelled out in an error; the rest are counted
# What to read where a folder has several: names as the transformers library gives them, then any single file.
_INDICES = (
    "model.safetensors.index.json",
    ".safetensors.index.json",
    "pytorch_model.bin.index.json",
    ".bin.index.json",
)
_SINGLE = ("model.safetensors", ".safetensors", "pytorch_model.bin", ".bin", ".pth")
Shape = tuple[int, ...]
ModuleT = TypeVar("ModuleT", bound=nn.Module)
OnProgress = Callable[[str, int, int], None]  # what is read, bytes of it so far, bytes in all


def no_progress(name: str, num_done: int, num_bytes: int) -> None:
    """An OnProgress that does nothing."""


class WeightsMismatch(ValueError):
    """Names or shapes in a weight file are not those of the model; the sentence says which."""


@dataclass(frozen=True, slots=True)
class Naming:
    """Between the names in a released file and ours; each function renames a mapping's keys."""

    ours: Callable[[Mapping[str, str]], dict[str, str]]  # drops what the model does not use
    released: Callable[[Mapping[str, str]], dict[str, str]]
    cut: frozenset[str] = frozenset()  # ours: a file may hold more rows, of which the first are read


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file, unread."""

    shape: Shape
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights in a file, or in a folder of shards, and what each file holds; none is open."""

    path: Path
    nests: tuple[str, ...]
    shards: Mapping[Path, Mapping[str, Stored]]

    @property
    def stored(self) -> dict[str, Stored]:
        return {name: tensor for stored in self.shards.values() for name, tensor in stored.items()}

    def tensors(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors, mapped from their files, with no more than one shard open at a time."""
        chosen = set(names)
        for file, stored in self.shards.items():
            wanted = [name for name in stored if name in chosen]
            if wanted:
                tensors = _read(file, self.nests)
                yield from ((name, tensors[name]) for name in wanted)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` or `.pth` file, memory-mapped, on the CPU, in the dtype stored.

    ValueError with a sentence when the file is missing, damaged or of another kind.
    """
    weights = open_weights(path)
    return dict(weights.tensors(list(weights.stored)))


def open_weights(
    path: Path, *, nests: tuple[str, ...] = (), holds: Callable[[str], bool] | None = None
) -> Weights:
    """List the tensors of a `.safetensors`, `.pth` or `.bin` file, or a folder of shards with their index.

    `nests` names entries under which a `.pth` file may keep its tensors; the first that exists is taken.
    Of a folder, only shards with a tensor for which `holds` is true are read and need to exist.
    ValueError with a sentence that names the file: it is missing, damaged or of another kind.
    """
    shards = {}
    for file in _shards(path, holds) if path.is_dir() else [path]:
        tensors = _read(file, nests).items()
        shards[file] = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors}
    return Weights(path, nests, shards)


def shards_of(index: bytes, holds: Callable[[str], bool] | None = None) -> list[str]:
    """The file names in a shard index, in order; ValueError when it is none."""
    try:
        weight_map: dict[str, str] = json.loads(index)["weight_map"]
        return sorted({file for name, file in weight_map.items() if holds is None or holds(name)})
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


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    """Of the parameters, by name."""
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module's parameters, converting dtypes; names and shapes must match exactly."""
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _refuse_differences(shapes_of(module), held, f"{source} does not fit the configuration")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[name])


def load_weights(
    module: nn.Module, weights: Weights, naming: Naming, *, model: str, on_progress: OnProgress = no_progress
) -> int:
    """Load weights into a module's parameters, shard by shard, directly to their device and dtype.

    On the CPU a tensor stored in the parameter's dtype is not copied: the parameter is the mapped file, whose
    pages are read when they are first used. Returns how many bytes those are. `model` says in an error what
    the file was read for. What the file holds besides is logged. WeightsMismatch before anything is copied.
    """
    names = match(shapes_of(module), weights, naming, model=model)
    _log_unused(weights, names)
    parameters = {names[own]: parameter for own, parameter in module.named_parameters()}
    num_bytes = sum(parameter.nbytes for parameter in parameters.values())
    num_done = num_mapped = 0
    with torch.no_grad():
        for name, stored in weights.tensors(list(parameters)):
            parameter = parameters[name]
            is_cut = stored.shape != parameter.shape  # longer, and `match` allowed it
            tensor = stored[: len(parameter)] if is_cut else stored
            is_alike = tensor.dtype == parameter.dtype and tensor.device == parameter.device
            if is_alike and tensor.is_contiguous():
                parameter.data = tensor
                num_mapped += parameter.nbytes
            else:
                parameter.copy_(tensor)
            num_done += parameter.nbytes
            on_progress(weights.path.name, num_done, num_bytes)
    return num_mapped


def match(shapes: Mapping[str, Shape], weights: Weights, naming: Naming, *, model: str) -> dict[str, str]:
    """Our names to the file's. WeightsMismatch unless the file holds exactly `shapes`.

    Names that `naming` drops do not count, nor do the rows that it cuts.
    """
    stored = weights.stored
    name_in_file = naming.ours({name: name for name in stored})
    as_released = {own: released for released, own in naming.released({own: own for own in shapes}).items()}
    held = {own: stored[name].shape for own, name in name_in_file.items()}
    for own in naming.cut & held.keys() & shapes.keys():
        if held[own][1:] == shapes[own][1:] and held[own][0] > shapes[own][0]:
            held[own] = shapes[own]
    _refuse_differences(
        {name_in_file.get(own, as_released[own]): shape for own, shape in shapes.items()},
        {name: held[own] for own, name in name_in_file.items()},
        f"{weights.path} does not fit {model}",
    )
    return name_in_file


def _log_unused(weights: Weights, names: Mapping[str, str]) -> None:
    unused = weights.stored.keys() - set(names.values())
    if unused:
        outer_first = sorted(unused, key=lambda name: (name.count("."), name))
        log.info("%s: skipped %s", weights.path, _listed("that the model does not use", outer_first))


@dataclass(frozen=True, slots=True)
class Part(Generic[ModuleT]):
    """One network of a model, its weights found to fit and not yet read."""

    module: ModuleT  # without memory
    weights: Weights
    naming: Naming
    model: str

    @classmethod
    def of(
        cls,
        module: ModuleT,
        weights: Weights,
        naming: Naming,
        model: str,
        *,
        recognised: Callable[[Weights], str] = lambda weights: "",
    ) -> Part[ModuleT]:
        """WeightsMismatch when they do not fit, with the sentence that `recognised` has on what they are."""
        try:
            match(shapes_of(module), weights, naming, model=model)
        except WeightsMismatch as error:
            raise WeightsMismatch(f"{error}.{recognised(weights)}") from error
        return cls(module, weights, naming, model)

    def make_resident(self, device: torch.device, on_progress: OnProgress) -> int:
        """Bytes of the weights that stay in their file, mapped."""
        self.module.to_empty(device=device).requires_grad_(False).eval()
        return load_weights(self.module, self.weights, self.naming, model=self.model, on_progress=on_progress)


def fingerprint_of(settings: Sequence[object], tokenizer: nn.Module) -> str:
    """16 hex characters over what decides a style feature: settings, and the image tokenizer's weights.

    Of the values and not of the files, so that a converted model has its original's. Of nothing else, so that
    another way of sampling, or another word about the model, leaves the features that are kept of use.
    """
    digest = sha256(json.dumps(settings, sort_keys=True).encode())
    for name, parameter in sorted(tokenizer.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _refuse_differences(wanted: Mapping[str, Shape], held: Mapping[str, Shape], finding: str) -> None:
    def written(shape: Shape) -> str:
        return "x".join(map(str, shape)) or "a scalar"

    differences = {
        "missing": wanted.keys() - held.keys(),
        "unexpected": held.keys() - wanted.keys(),
        "of another shape": {
            f"{name} is {written(held[name])}, not {written(wanted[name])}"
            for name in wanted.keys() & held.keys()
            if held[name] != wanted[name]
        },
    }
    found = [_listed(kind, sorted(names)) for kind, names in differences.items() if names]
    if found:
        raise WeightsMismatch(f"{finding}: {'; '.join(found)}")


def _listed(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{len(names)} tensors {kind}: {', '.join(names[:_MAX_NAMED])}{more}"


def _shards(folder: Path, holds: Callable[[str], bool] | None) -> list[Path]:
    chosen = choose_weights([file.name for file in folder.iterdir()])
    if chosen is None:
        raise ValueError(
            f"{folder} holds no weights that can be told: it needs an index of shards "
            "(model.safetensors.index.json or pytorch_model.bin.index.json) or a single weight file"
        )
    name, is_index = chosen
    try:
        names = shards_of((folder / name).read_bytes(), holds) if is_index else [name]
    except ValueError as error:
        raise ValueError(f"{folder / name} {error}") from error
    files = [folder / shard for shard in names]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file} is missing; {name} names it")
    return files


def _read(path: Path, nests: tuple[str, ...]) -> dict[str, Tensor]:
    """A file's tensors by name, mapped on the CPU for as long as they live; writing leaves the file alone."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    with path.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"version https://"):
        raise ValueError(f"{path} is the pointer that Git LFS leaves in the place of a file, not the weights")
    # By content, so that a converted file may lie where the released one did: a length, then a JSON object.
    if path.suffix != ".safetensors" and start[8:9] != b"{":
        return _unpickled(path, nests, is_zip=start.startswith(b"PK"))
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unpickled(path: Path, nests: tuple[str, ...], *, is_zip: bool) -> dict[str, Tensor]:
    try:
        # Files older than torch 1.6 are no zip archives and cannot be mapped: their tensors are read at once.
        held = torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    if isinstance(held, Mapping):
        held = next((held[nest] for nest in nests if isinstance(held.get(nest), Mapping)), held)
    if not isinstance(held, Mapping):
        raise ValueError(f"{path} holds a {type(held).__name__}, not named tensors")
    others = [str(name) for name, value in held.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"{path} holds other things than named tensors: {', '.join(others[:_MAX_NAMED])}. A checkpoint "
            f"of a training run keeps its weights further in: `atelier extract-weights {path} "
            f"{path.with_suffix('.safetensors')}` writes them alone."
        )
    return dict(held)


def _unreadable(path: Path, error: Exception) -> ValueError:
    """The first line of the library's error, and what it can mean."""
    lines = str(error).splitlines() or [type(error).__name__]
    if any("Unsupported global" in line or "is blocked" in line for line in lines):
        return ValueError(
            f"{path} holds Python objects besides tensors, and reading those could run any code. "
            f"`atelier extract-weights {path} {path.with_suffix('.safetensors')}` writes its tensors alone "
            "without running any; then put the new file in its place."
        )
    return ValueError(
        f"{path} cannot be read as a weight file: {path.stat().st_size:,} bytes, cut short or damaged or of "
        f"another kind ({lines[0]})"
    )
