"""Checking image tokenizers: encoder, bits, accumulated features, decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from service.evaluation.checks import FEATURES, IMAGES, Check, compare, read_tokenizer, tokenizer_config
from service.model.infinity.tokenizer import accumulated, quantise
from service.model.schedule import Scale
from service.model.style.resize import pool, resize


def tokenizer_checks(
    folder: Path, config: Mapping[str, Any], expected: Mapping[str, Tensor]
) -> Iterator[Check]:
    for file in sorted(folder.glob("vae_*.safetensors")):
        name = file.stem.removeprefix("vae_")
        shape = tokenizer_config(config[name], config[name]["patch_size"])
        tokenizer = read_tokenizer(file, shape)
        patch = 16 // shape.stride
        grids = [Scale(height, width).times(patch) for _, height, width in config["scale_schedule"]]
        image = expected[f"{name}.image_u8"].permute(2, 0, 1)[None].float() / 255 * 2 - 1
        h = tokenizer.encode(image)
        yield compare(f"{name}.h", h, expected[f"{name}.h"], FEATURES)
        bits = quantise(h, grids)
        flat = torch.cat([bit[0].flatten(1).T for bit in bits])[None]
        yield compare(f"{name}.bits", flat, expected[f"{name}.bits"], 0)
        features = accumulated(bits, grids[-1])
        yield compare(f"{name}.z", features[-1], expected[f"{name}.z"], FEATURES)
        yield from _tokenizer_features(name, features, grids, patch, bits, expected)
        decoded = tokenizer.decode(expected[f"{name}.z"])
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
