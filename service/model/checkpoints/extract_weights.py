"""The tensors of a pickled checkpoint, without running anything that is in it.

A pickle names functions and classes, and reading it calls them. torch's restricted reader (`weights_only`)
calls its own few that make tensors, and stops at any other. Here each other name is given to that reader as a
class of our own that does nothing: nothing of that name is imported or called. What remains to be trusted is
torch's reader and the libraries under it, as for any weight file.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.model.checkpoints.convert import write_safetensors
from service.model.checkpoints.loader import OnProgress, Stored, no_progress

# torch's sentence on a name that is not one of its own.
_UNKNOWN_NAME = re.compile(r"Unsupported global: GLOBAL (\S+)")
# The line of its message that says why it stopped.
_REASON = re.compile(r"(?:WeightsUnpickler error:\s*|^(?=Trying to load ))(\S.*)", re.MULTILINE)
_MAX_NAMES = 1000
_MAX_LISTED = 10


class _Inert:
    """Stands for an object of the file, whatever it is made from and given."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def extract_weights(
    source: Path, target: Path, entry: str | None = None, on_progress: OnProgress = no_progress
) -> tuple[str, int]:
    """Write the named tensors of `source` as safetensors; which entry they were in, and how many.

    `entry`, such as `trainer.gpt_fsdp`, is needed where several hold tensors. ValueError with a sentence: no
    such file or entry, no tensors, a file that cannot be read without running it, or a target that exists.
    """
    if target.exists():
        raise ValueError(f"{target} is there already: remove it, or choose another name")
    found = dict(_entries(_read_inertly(source)))
    if not found:
        raise ValueError(f"{source} holds no named tensors")
    if entry is None and len(found) > 1:
        raise ValueError(f"{source} holds tensors in several entries: choose with --entry\n{_listed(found)}")
    chosen = next(iter(found)) if entry is None else entry
    if chosen not in found:
        raise ValueError(f"{source} holds no tensors in {chosen!r}; it does in\n{_listed(found)}")
    tensors = found[chosen]
    header = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        write_safetensors(unfinished, header, tensors.items(), on_progress)
        unfinished.replace(target)
    except OSError as error:
        raise ValueError(f"{target} could not be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return chosen, len(tensors)


def _read_inertly(source: Path) -> Any:
    """What the file holds, with an inert object for each that is none of torch's."""
    if not source.is_file():
        raise ValueError(f"{source} is missing")
    with source.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"  # older files cannot be mapped
    inert: dict[str, type[_Inert]] = {}
    while len(inert) < _MAX_NAMES:
        try:
            with torch.serialization.safe_globals([(cls, name) for name, cls in inert.items()]):
                return torch.load(source, map_location="cpu", mmap=is_zip, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError) as error:
            name = _unknown_name(str(error))
            if name is None or name in inert:
                found = _REASON.search(str(error))
                reason = found[1] if found else (str(error).splitlines() or [type(error).__name__])[0]
                raise ValueError(f"{source} cannot be read without running it: {reason}") from error
            inert[name] = type("Inert", (_Inert,), {})
    raise ValueError(f"{source} names more than {_MAX_NAMES} functions and classes: this is no weight file")


def _unknown_name(message: str) -> str | None:
    """The name at which torch's reader stopped, as it is registered there; None where it stopped otherwise.

    It names built-ins without their module, and refuses `os`, `sys` and the like whatever is registered.
    """
    found = _UNKNOWN_NAME.search(message)
    if found is None:
        return None
    return found[1] if "." in found[1] else f"builtins.{found[1]}"


def _entries(held: object, path: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """All mappings with tensors, by the dotted path to them; that of the outermost is ''."""
    if not isinstance(held, Mapping):
        return
    tensors = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for name, value in held.items():
        yield from _entries(value, f"{path}.{name}" if path else str(name))


def _listed(found: Mapping[str, Mapping[str, Tensor]]) -> str:
    lines = [f"  {entry or '(outermost)'}: {len(tensors)} tensors" for entry, tensors in found.items()]
    return "\n".join(lines[:_MAX_LISTED])
