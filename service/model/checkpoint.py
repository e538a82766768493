"""Reading weight files into modules, strictly: every difference is an error that names it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_MAX_NAMED = 4  # differences spelled out in an error; the rest are counted


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` or `.pth` file, memory-mapped, on the CPU, in the dtype stored.

    ValueError with a sentence when the file is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as a weight file: {error}") from error
    if not isinstance(stored, Mapping):
        raise ValueError(f"{path} holds a {type(stored).__name__}, not named tensors")
    return {name: tensor for name, tensor in stored.items() if isinstance(tensor, Tensor)}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module's parameters, converting dtypes; names and shapes must match exactly."""
    wanted = dict(module.named_parameters())
    differences = [
        *_listed("missing", wanted.keys() - tensors.keys()),
        *_listed("unexpected", tensors.keys() - wanted.keys()),
        *_listed(
            "of another shape",
            (
                f"{name} is {_shape(tensors[name])}, not {_shape(wanted[name])}"
                for name in wanted.keys() & tensors.keys()
                if tensors[name].shape != wanted[name].shape
            ),
        ),
    ]
    if differences:
        raise ValueError(f"{source} does not fit the configuration: {'; '.join(differences)}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _listed(kind: str, names: Iterable[str]) -> list[str]:
    every = sorted(names)
    more = f" and {len(every) - _MAX_NAMED} more" if len(every) > _MAX_NAMED else ""
    return [f"{len(every)} tensors {kind}: {', '.join(every[:_MAX_NAMED])}{more}"] if every else []
