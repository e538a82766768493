"""Weights into modules, strictly: every difference is an error that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from service.model.weight_files import Weights, open_weights

_MAX_NAMED = 4  # differences spelled out in an error; the rest are counted

Shape = tuple[int, ...]
Watch = Callable[[str, int, int], None]  # what is read, bytes of it so far, bytes in all


class Misfit(ValueError):
    """A weight file whose names or shapes are not those of the model; the sentence says which."""


@dataclass(frozen=True, slots=True)
class Naming:
    """Between the names in a released file and ours; each function renames a mapping's keys."""

    ours: Callable[[Mapping[str, str]], dict[str, str]]  # drops what is there for nothing, such as constants
    released: Callable[[Mapping[str, str]], dict[str, str]]


def unwatched(name: str, num_done: int, num_bytes: int) -> None:
    """The Watch of nobody."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` or `.pth` file, memory-mapped, on the CPU, in the dtype stored.

    ValueError with a sentence when the file is missing, damaged or of another kind.
    """
    weights = open_weights(path)
    return dict(weights.tensors(list(weights.stored)))


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module's parameters, converting dtypes; names and shapes must match exactly."""
    wanted = dict(module.named_parameters())
    _refuse_differences(
        {name: tuple(each.shape) for name, each in wanted.items()},
        {name: tuple(each.shape) for name, each in tensors.items()},
        f"{source} does not fit the configuration",
    )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])


def load_weights(
    module: nn.Module, weights: Weights, naming: Naming, *, model: str, watch: Watch = unwatched
) -> int:
    """Bring weights into a module's parameters, shard by shard, straight to their device and dtype.

    On the CPU what is stored in the dtype that is wanted stays where it is: the parameter is the file,
    mapped, and its pages are read when they are first used. Returns how many bytes those are. `model` says
    in an error what the file was read for. Misfit before anything is copied.
    """
    parameters = dict(module.named_parameters())
    shapes = {name: tuple(each.shape) for name, each in parameters.items()}
    own_names = {stored: own for own, stored in match(shapes, weights, naming, model=model).items()}
    num_bytes, num_done = sum(each.nbytes for each in parameters.values()), 0
    num_mapped = 0
    with torch.no_grad():
        for name, tensor in weights.tensors(list(own_names)):
            parameter = parameters[own_names[name]]
            if _is_what_is_wanted(tensor, parameter):
                parameter.data = tensor
                num_mapped += parameter.nbytes
            else:
                parameter.copy_(tensor)
            num_done += parameter.nbytes
            watch(weights.path.name, num_done, num_bytes)
    return num_mapped


def _is_what_is_wanted(stored: Tensor, parameter: Tensor) -> bool:
    is_alike = stored.dtype == parameter.dtype and stored.device == parameter.device
    return is_alike and stored.is_contiguous()


def match(shapes: Mapping[str, Shape], weights: Weights, naming: Naming, *, model: str) -> dict[str, str]:
    """For each of our names the file's. Misfit unless the file holds exactly what `shapes` asks for."""
    stored = weights.stored
    name_in_file = naming.ours({name: name for name in stored})
    as_released = {own: released for released, own in naming.released({own: own for own in shapes}).items()}
    _refuse_differences(
        {name_in_file.get(own, as_released[own]): shape for own, shape in shapes.items()},
        {name: stored[name].shape for name in name_in_file.values()},
        f"{weights.path} does not fit {model}",
    )
    return name_in_file


def _refuse_differences(wanted: Mapping[str, Shape], held: Mapping[str, Shape], finding: str) -> None:
    differences = [
        *_listed("missing", wanted.keys() - held.keys()),
        *_listed("unexpected", held.keys() - wanted.keys()),
        *_listed(
            "of another shape",
            (
                f"{name} is {_written(held[name])}, not {_written(wanted[name])}"
                for name in wanted.keys() & held.keys()
                if held[name] != wanted[name]
            ),
        ),
    ]
    if differences:
        raise Misfit(f"{finding}: {'; '.join(differences)}")


def _written(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _listed(kind: str, names: Iterable[str]) -> list[str]:
    every = sorted(names)
    more = f" and {len(every) - _MAX_NAMED} more" if len(every) > _MAX_NAMED else ""
    return [f"{len(every)} tensors {kind}: {', '.join(every[:_MAX_NAMED])}{more}"] if every else []
