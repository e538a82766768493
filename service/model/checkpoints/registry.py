"""Models by name."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from service.model.checkpoints.loader import OnProgress, no_progress
from service.model.checkpoints.memory_budget import (
    require_room,
    require_room_for_weights,
    shortage_of_weights,
)
from service.model.checkpoints.options import DEFAULT_OPTIONS, LoadOptions, choose_sizes
from service.model.device.memory import free_bytes
from service.model.device.precision import Precision, choose
from service.model.engine.generator import Generator
from service.model.infinity.config import InfinityConfig
from service.model.infinity.model_folder import read_config, read_infinity
from service.model.infinity.presets import RELEASED

BUNDLED = {"nano": Path(__file__).parents[1] / "nano" / "weights"}


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """A model that was asked for: its configuration, and the folder its files are named in."""

    config: InfinityConfig
    folder: Path


def names() -> tuple[str, ...]:
    """The models that are known by name: those in the package, and those that `atelier fetch` brings."""
    return (*BUNDLED, *RELEASED)


def own_folder(name: str, models_dir: Path) -> Path:
    """Where a released model is looked for first: converted. ValueError for any other model."""
    if name not in RELEASED:
        raise ValueError(f"{name} is none of {', '.join(RELEASED)}: name the folder to write with --out")
    return models_dir / name


def find(name_or_path: str, models_dir: Path) -> ModelLocation:
    """The model of a name, or of a folder with config.json. ValueError with a sentence when there is none.

    A folder of that name in the models folder, such as `atelier convert` writes, comes before a preset's
    released files.
    """
    folder = BUNDLED.get(name_or_path, Path(name_or_path))
    if name_or_path in RELEASED:
        folder = own_folder(name_or_path, models_dir)
        if not (folder / "config.json").is_file():
            config = RELEASED[name_or_path].config
            _require_files(config, models_dir)
            return ModelLocation(config, models_dir)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"There is no model {name_or_path!r}: give one of {', '.join(names())}, "
            "or the path of a folder that holds config.json."
        )
    return ModelLocation(read_config(folder / "config.json"), folder)


def load(
    name_or_path: str,
    device: str = "auto",
    *,
    models_dir: Path = Path(),
    choices: LoadOptions = DEFAULT_OPTIONS,
    on_progress: OnProgress = no_progress,
) -> Generator:
    """Make a model resident: one of `names()`, or a folder with config.json and what that names.

    Released checkpoints are looked for in `models_dir`. ValueError with a sentence when there is no such
    model, its files do not fit, there is no such device, the choices make no sense on it, or there is no
    memory left in which to draw.
    """
    place, on = find(name_or_path, models_dir), device_of(device)
    precision = precision_of(on, choices)
    sizes = choose_sizes(list(place.config.schedules()), choices.sizes, model=place.config.name)
    if choices.compile:
        require_compiler()
    free = free_bytes(on)
    require_room_for_weights(place.config, precision, on, free)
    try:
        infinity = read_infinity(
            place.config,
            place.folder,
            on,
            precision=precision,
            decoding=choices.decoding,
            on_progress=on_progress,
        )
    except torch.OutOfMemoryError as error:  # others share a GPU, and take what was free
        raise ValueError(shortage_of_weights(place.config, precision, on, free)) from error
    if choices.compile:
        infinity.compile()
    generator = Generator(infinity, sizes)
    require_room(infinity, generator.sizes, generator.fit)
    return generator


def precision_of(device: torch.device, choices: LoadOptions) -> Precision:
    """ValueError with a sentence when the choices make no sense on the device."""
    return choose(
        device,
        precision=choices.precision,
        text_precision=choices.text_precision,
        text_device=choices.text_device,
    )


def _require_files(config: InfinityConfig, models_dir: Path) -> None:
    files = config.files
    for name in (files.transformer, files.tokenizer, files.text_encoder):
        if not (models_dir / name).exists():
            raise ValueError(
                f"The model {config.name} needs {models_dir / name}, which is missing: `atelier fetch "
                f"{config.name}` downloads it, or name the folder that holds {name} as ATELIER_MODELS_DIR."
            )


def require_compiler() -> None:
    """ValueError where PyTorch could not compile: it makes C++ for a CPU, and for a GPU's launches."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # what it looks for itself
    if shutil.which(name) is None:
        raise ValueError(
            f"ATELIER_COMPILE needs a C++ compiler, and there is no {name} here: install it, name another as "
            "CXX, or leave the model as it is."
        )


def device_of(name: str) -> torch.device:
    """The device of a name; `auto` is the GPU where there is one. ValueError when it is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ValueError(f"There is no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device
