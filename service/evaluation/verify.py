"""Parity with the reference implementation, on folders laid out like a golden set.

A folder holds `config.json`, `tensors.safetensors` (inputs and expected outputs) and weights; which weight
files there are decides what is checked. Every convention is in the golden README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from service.evaluation.checks import (
    FEATURES,
    IMAGES,
    ON_CPU,
    Check,
    Form,
    compare,
    read_tokenizer,
    tokenizer_config,
)
from service.evaluation.verify_switti import switti_checks
from service.evaluation.verify_transformer import TransformerSet
from service.model.block_runner import compile_decoder
from service.model.checkpoints.loader import read_tensors
from service.model.device.linear import choose_row_tile
from service.model.device.precision import full_fp32
from service.model.infinity.tokenizer import accumulated, quantise
from service.model.schedule import Scale
from service.model.style.resize import pool, resize


def tokenizer_checks(
    folder: Path, config: Mapping[str, Any], expected: Mapping[str, Tensor], form: Form
) -> Iterator[Check]:
    for file in sorted(folder.glob("vae_*.safetensors")):
        name = file.stem.removeprefix("vae_")
        shape = tokenizer_config(config[name], config[name]["patch_size"])
        tokenizer = read_tokenizer(file, shape).to(form.device)
        if form.compiler is not None:
            compile_decoder(tokenizer.decoder, form.compiler)
        patch = 16 // shape.stride
        grids = [Scale(height, width).times(patch) for _, height, width in config["scale_schedule"]]
        image = expected[f"{name}.image_u8"].permute(2, 0, 1)[None].float() / 255 * 2 - 1
        h = tokenizer.encode(image.to(form.device))
        yield compare(f"{name}.h", h, expected[f"{name}.h"], FEATURES)
        bits = quantise(h, grids)
        flat = torch.cat([bit[0].flatten(1).T for bit in bits])[None]
        yield compare(f"{name}.bits", flat, expected[f"{name}.bits"], 0)
        features = accumulated(bits, grids[-1])
        yield compare(f"{name}.z", features[-1], expected[f"{name}.z"], FEATURES)
        yield from _tokenizer_features(name, features, grids, patch, bits, expected)
        decoded = tokenizer.decode(expected[f"{name}.z"].to(form.device))
        yield compare(f"{name}.decoded_s4", decoded[:, :, 1::4, 2::4], expected[f"{name}.decoded_s4"], IMAGES)
        yield compare(
            f"{name}.decoded_crop", decoded[:, :, :48, -48:], expected[f"{name}.decoded_crop"], IMAGES
        )


def _tokenizer_features(
    name: str, features: Sequence[Tensor], grids: Sequence[Scale], patch: int, bits: Sequence[Tensor],
    expected: Mapping[str, Tensor],
) -> Iterator[Check]:  # fmt: skip
    def as_tokens(planes: Tensor) -> Tensor:
        return F.pixel_unshuffle(planes, patch).flatten(2).transpose(1, 2)

    inputs = [as_tokens(resize(feature, grid)) for feature, grid in zip(features, grids[1:], strict=False)]
    areas = [pool(feature, grid) for feature, grid in zip(features, grids[1:4], strict=False)]
    ours = {
        "F": torch.stack(list(features)),
        "F_1": features[0],
        "F_3": features[2],
        "tf_inputs": torch.cat(inputs, dim=1),
        **{f"area_in_{index}": area for index, area in enumerate(areas, start=1)},
    }
    for key, tensor in ours.items():
        if f"{name}.{key}" in expected:
            yield compare(f"{name}.{key}", tensor, expected[f"{name}.{key}"], FEATURES)
    if f"{name}.patch_labels" in expected:
        labels = torch.cat([as_tokens(bit.float()) for bit in bits], dim=1)
        yield compare(f"{name}.patch_labels", labels, expected[f"{name}.patch_labels"], 0)


@torch.inference_mode()
def verify(folder: Path, form: Form = ON_CPU) -> list[Check]:
    """Every check of one folder. ValueError when the folder is not laid out like a golden set.

    On a GPU convolutions are computed in fp32 throughout: the sets are fp32.
    """
    with full_fp32():
        return _verify(folder, form)


def _verify(folder: Path, form: Form) -> list[Check]:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{folder} is not laid out like a golden set: it has no config.json")
    config: dict[str, Any] = json.loads(config_file.read_text())
    expected = read_tensors(folder / "tensors.safetensors")
    try:
        if (folder / "transformer.safetensors").is_file():
            return list(TransformerSet(folder, config, expected, form=form).checks())
        if any(folder.glob("vae_*.safetensors")):
            return list(tokenizer_checks(folder, config, expected, form))
        if (folder / "switti.safetensors").is_file():
            return list(switti_checks(folder, config, expected, form))
    except KeyError as error:
        raise ValueError(f"{folder} is not laid out like a golden set: it has no {error}") from error
    raise ValueError(
        f"{folder} holds neither transformer.safetensors, vae_*.safetensors nor switti.safetensors"
    )


def row_tile_line(folder: Path) -> str:
    """What `choose_row_tile` measures on this CPU for the matrices of the folder's transformer."""
    files = [folder / f"{name}.safetensors" for name in ("transformer", "switti")]
    tensors = [tensor for file in files if file.is_file() for tensor in read_tensors(file).values()]
    matrices = [tensor for tensor in tensors if tensor.dim() == 2]
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
