"""Does our implementation give the reference's numbers? Checks folders laid out like a golden set.

A folder holds `config.json`, `tensors.safetensors` (inputs and expected outputs) and the weights; what is
checked follows from the weight files that are there. Every convention is in the golden README.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from service.evaluation.checks import Check
from service.evaluation.verify_tokenizer import tokenizer_checks
from service.evaluation.verify_transformer import TransformerSet
from service.model.checkpoints.loader import read_tensors
from service.model.device.linear import choose_row_tile


@torch.inference_mode()
def verify(folder: Path) -> list[Check]:
    """Every check of one folder. ValueError when the folder is not laid out like a golden set."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{folder} is not laid out like a golden set: it has no config.json")
    config: dict[str, Any] = json.loads(config_file.read_text())
    expected = read_tensors(folder / "tensors.safetensors")
    try:
        if (folder / "transformer.safetensors").is_file():
            return list(TransformerSet(folder, config, expected).checks())
        if any(folder.glob("vae_*.safetensors")):
            return list(tokenizer_checks(folder, config, expected))
    except KeyError as error:
        raise ValueError(f"{folder} is not laid out like a golden set: it has no {error}") from error
    raise ValueError(f"{folder} holds neither transformer.safetensors nor vae_*.safetensors")


def row_tile_line(folder: Path) -> str:
    """What `choose_row_tile` measures on this CPU for the matrices of the folder's transformer."""
    file = folder / "transformer.safetensors"
    matrices = (
        [tensor for tensor in read_tensors(file).values() if tensor.dim() == 2] if file.is_file() else []
    )
    if not matrices:
        return "Row tile: not measured, as this set has no transformer."
    tile = choose_row_tile(matrices)
    if tile is None:
        return "Row tile: none holds on this CPU, so an image may round differently alone and in a batch."
    return f"Row tile: {tile}. With these matrices a row rounds alike alone and in any batch on this CPU."


def table(checks: list[Check]) -> str:
    """One line a tensor: its name, the largest difference, the tolerance and the verdict."""
    width = max(len(check.tensor) for check in checks)
    lines = [f"{'tensor':{width}}  largest difference  tolerance  verdict"]
    for check in checks:
        tolerance = "exact" if check.tolerance == 0 else f"{check.tolerance:.0e}"
        verdict = "ok" if check.passed else "MISS"
        lines.append(f"{check.tensor:{width}}  {check.difference:18.2e}  {tolerance:>9}  {verdict}")
    return "\n".join(lines)
