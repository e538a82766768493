"""A model folder: config.json, transformer.safetensors, tokenizer.safetensors and text_encoder/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.model.checkpoint import load_into, read_tensors
from service.model.infinity.config import InfinityConfig
from service.model.infinity.model import Infinity
from service.model.infinity.names import (
    tokenizer_from_official,
    tokenizer_to_official,
    transformer_from_official,
    transformer_to_official,
)
from service.model.infinity.text import TextEncoder
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer


def read_infinity(folder: Path, device: torch.device) -> Infinity:
    """Make the model of a folder resident. ValueError names the file and what is wrong with it."""
    config = _read_config(folder / "config.json")
    transformer_file, tokenizer_file = folder / "transformer.safetensors", folder / "tokenizer.safetensors"
    with torch.device("meta"):  # their memory is filled from the files, not initialised first
        transformer = Transformer(config.transformer, config.bits_per_token)
        tokenizer = Tokenizer(config.tokenizer)
    for module in (transformer, tokenizer):
        module.to_empty(device=device).requires_grad_(False).eval()
    weights = transformer_from_official(read_tensors(transformer_file), config.transformer.blocks_per_chunk)
    load_into(transformer, weights, source=str(transformer_file))
    load_into(tokenizer, tokenizer_from_official(read_tensors(tokenizer_file)), source=str(tokenizer_file))
    fillers = config.vocabulary.fillers if config.vocabulary else ()
    return Infinity(
        config,
        transformer,
        tokenizer,
        TextEncoder.from_folder(folder / "text_encoder", device, fillers=fillers),
        fingerprint=fingerprint(folder / "config.json", tokenizer_file),
    )


def write_infinity(
    folder: Path, config: InfinityConfig, transformer: nn.Module, tokenizer: nn.Module, dtype: torch.dtype
) -> None:
    """Write all but the text encoder, under the released names."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in asdict(config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    official = transformer_to_official(
        dict(transformer.named_parameters()), config.transformer.blocks_per_chunk
    )
    _save(folder / "transformer.safetensors", official, dtype)
    _save(folder / "tokenizer.safetensors", tokenizer_to_official(dict(tokenizer.named_parameters())), dtype)


def fingerprint(config_file: Path, tokenizer_file: Path) -> str:
    """16 hex characters over what decides a style feature: the configuration and the image tokenizer."""
    digest = sha256(config_file.read_bytes())
    with tokenizer_file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _read_config(file: Path) -> InfinityConfig:
    try:
        return InfinityConfig.from_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _save(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    save_file({name: each.detach().to(dtype).contiguous() for name, each in tensors.items()}, file)
