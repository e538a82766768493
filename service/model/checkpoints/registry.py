"""Models by name, and loading them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from service.model.checkpoints.family import Checkpoint, Family, Preset
from service.model.checkpoints.loader import OnProgress, no_progress
from service.model.checkpoints.memory_budget import (
    require_room,
    require_room_for_weights,
    shortage_of_weights,
)
from service.model.checkpoints.options import DEFAULT_OPTIONS, LoadOptions, choose_sizes
from service.model.device.fp8 import require_fp8
from service.model.device.linear import row_tile
from service.model.device.memory import free_bytes
from service.model.device.precision import Precision, choose, forbid_tf32
from service.model.engine.generator import Generator
from service.model.infinity.model_folder import FAMILY as INFINITY
from service.model.switti.model_folder import FAMILY as SWITTI

# The kinds of backbone, by what config.json says as `family`; a folder that says nothing is an Infinity's.
FAMILIES: dict[str, Family[Any]] = {"infinity": INFINITY, "switti": SWITTI}
PRESETS: dict[str, tuple[Family[Any], Preset[Any]]] = {
    name: (family, preset) for family in FAMILIES.values() for name, preset in family.presets.items()
}
BUNDLED = {"nano": Path(__file__).parents[1] / "nano" / "weights"}


def names() -> tuple[str, ...]:
    """The models that are known by name: those in the package, and those that `atelier fetch` brings."""
    return (*BUNDLED, *PRESETS)


def converted_folder(name: str, models_dir: Path) -> Path:
    """Where a released model is looked for first: converted. ValueError for any other model."""
    if name not in PRESETS:
        raise ValueError(f"{name} is none of {', '.join(PRESETS)}: name the folder to write with --out")
    return models_dir / name


def find(name_or_path: str, models_dir: Path, *, needs_files: bool = True) -> Checkpoint:
    """The model of a name, or of a folder with config.json. ValueError with a sentence when there is none.

    A folder of that name in the models folder, such as `atelier convert` writes, comes before a preset's
    released files. With `needs_files` ValueError when some of those are missing.
    """
    folder = BUNDLED.get(name_or_path, Path(name_or_path))
    if name_or_path in PRESETS:
        folder = converted_folder(name_or_path, models_dir)
        if not needs_files or not (folder / "config.json").is_file():
            family, preset = PRESETS[name_or_path]
            checkpoint = family.checkpoint(preset.config, models_dir)
            if needs_files:
                _require_files(checkpoint)
            return checkpoint
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"There is no model {name_or_path!r}: give one of {', '.join(names())}, "
            "or the path of a folder that holds config.json."
        )
    return open_folder(folder)


def open_folder(folder: Path) -> Checkpoint:
    """The model of a folder's config.json. ValueError names the file and the field."""
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_bytes())
        if not isinstance(settings, Mapping):
            raise ValueError("must be an object")
        name = settings.get("family", "infinity")
        if name not in FAMILIES:
            raise ValueError(f"family: must be one of {', '.join(FAMILIES)}, not {name!r}")
        family = FAMILIES[name]
        config = family.read_config({key: settings[key] for key in settings if key != "family"})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return family.checkpoint(config, folder)


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
    checkpoint, on = find(name_or_path, models_dir), device_of(device)
    precision = precision_of(on, choices)
    sizes = choose_sizes(list(checkpoint.schedules), choices.sizes, model=checkpoint.name)
    if choices.compile:
        require_compiler()
    compiles = reason_not_to_compile(on, choices.compile) is None
    if on.type == "cuda":
        forbid_tf32()
    free = free_bytes(on)
    require_room_for_weights(checkpoint, precision, on, free)
    try:
        backbone = checkpoint.load(
            on,
            precision=precision,
            decoding=choices.decoding,
            compile=compiles,
            on_progress=on_progress,
        )
    except torch.OutOfMemoryError as error:  # others share a GPU, and take what was free
        raise ValueError(shortage_of_weights(checkpoint, precision, on, free)) from error
    generator = Generator(backbone, sizes)
    require_room(checkpoint, backbone, precision, generator.sizes, generator.limits)
    return generator


def row_tile_of(generator: Generator) -> int | None:
    """The rows to which batches are padded, where that makes an image the same bytes alone and in any batch.

    None where this is not promised: on a GPU, compiled, in fp8, or on a CPU on which no tile holds.
    """
    backbone = generator.backbone
    is_exact = backbone.device.type == "cpu" and not backbone.is_compiled and backbone.precision != "fp8"
    tile = row_tile()
    return tile.num_rows if is_exact and tile.holds else None


def precision_of(device: torch.device, choices: LoadOptions) -> Precision:
    """ValueError with a sentence when the choices make no sense on the device."""
    if choices.precision == "fp8":
        require_fp8(device)
    return choose(
        device,
        precision=choices.precision,
        text_precision=choices.text_precision,
        text_device=choices.text_device,
    )


def _require_files(checkpoint: Checkpoint) -> None:
    for file in checkpoint.files:
        if not file.exists():
            raise ValueError(
                f"The model {checkpoint.name} needs {file}, which is missing: `atelier fetch "
                f"{checkpoint.name}` downloads it, or name the folder that holds {file.name} as "
                "ATELIER_MODELS_DIR."
            )


def require_compiler() -> None:
    """ValueError where PyTorch could not compile: it makes C++ for a CPU, and for a GPU's launches."""
    name = _compiler()
    if shutil.which(name) is None:
        raise ValueError(
            f"ATELIER_COMPILE needs a C++ compiler, and there is no {name} here: install it, name another as "
            "CXX, or leave the model as it is."
        )


def reason_not_to_compile(device: torch.device, choice: bool | None) -> str | None:
    """Why a model on the device is not compiled; None where it is. `choice` None leaves it to the device."""
    if choice is not None:
        return None if choice else "ATELIER_COMPILE is false"
    if device.type != "cuda":
        return f"the model is on the {device.type.upper()}; ATELIER_COMPILE=true compiles it all the same"
    if shutil.which(_compiler()) is None:
        return f"there is no C++ compiler: install {_compiler()}, or name another as CXX"
    if find_spec("triton") is None:
        return "there is no Triton, which CUDA builds of PyTorch bring on Linux"
    return None


def _compiler() -> str:
    """What PyTorch looks for itself."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def device_of(name: str) -> torch.device:
    """The device of a name; `auto` is the GPU where there is one. ValueError when it is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ValueError(f"There is no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device
