"""Writing an Infinity that was made here as a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.model.infinity.config import FilesConfig, InfinityConfig
from service.model.infinity.weight_names import tokenizer_to_official, transformer_to_official


def write_infinity(
    folder: Path, config: InfinityConfig, transformer: nn.Module, tokenizer: nn.Module, dtype: torch.dtype
) -> None:
    """Write all but the text encoder, under the released names."""
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(config, files=FilesConfig())
    (folder / "config.json").write_text(config.to_json())
    official = transformer_to_official(
        dict(transformer.named_parameters()), config.transformer.blocks_per_chunk
    )
    _save(folder / config.files.transformer, official, dtype)
    _save(folder / config.files.tokenizer, tokenizer_to_official(dict(tokenizer.named_parameters())), dtype)


def _save(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    save_file({name: tensor.detach().to(dtype).contiguous() for name, tensor in tensors.items()}, file)
