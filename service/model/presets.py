"""Models by name."""

from __future__ import annotations

from pathlib import Path

import torch

from service.model.generator import Generator
from service.model.infinity.folder import read_infinity

_BUNDLED = {"nano": Path(__file__).parent / "nano" / "weights"}


def names() -> tuple[str, ...]:
    """The models that ship inside the package."""
    return tuple(_BUNDLED)


def load(name_or_path: str, device: str = "auto") -> Generator:
    """Make a model resident: one of `names()`, or a folder with config.json, the weights and text_encoder/.

    ValueError with a sentence when there is no such model, its files do not fit, or there is no such device.
    """
    folder = _BUNDLED.get(name_or_path, Path(name_or_path))
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"There is no model {name_or_path!r}: give one of {', '.join(names())}, "
            "or the path of a folder that holds config.json."
        )
    return Generator(read_infinity(folder, _device(device)))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ValueError(f"There is no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device
