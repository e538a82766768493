"""Models by name, and reading a model folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from service.model.checkpoint import load_into, read_tensors
from service.model.generator import Generator
from service.model.infinity.config import InfinityConfig
from service.model.infinity.model import Infinity, fingerprint
from service.model.infinity.names import tokenizer_from_official, transformer_from_official
from service.model.infinity.text import TextEncoder
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer

_BUNDLED = {"nano": Path(__file__).parent / "nano" / "weights"}


def names() -> tuple[str, ...]:
    """The models that ship inside the package."""
    return tuple(_BUNDLED)


def load(name_or_path: str, device: str = "auto") -> Generator:
    """Make a model resident: one of `names()`, or a folder with config.json, the weights and text_encoder/.

    ValueError with a sentence when there is no such model or its files do not fit.
    """
    folder = _BUNDLED.get(name_or_path, Path(name_or_path))
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(
            f"there is no model {name_or_path!r}: give one of {', '.join(names())}, "
            f"or the path of a folder that holds config.json"
        )
    try:
        config = InfinityConfig.from_json(config_file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{config_file}: {error}") from error
    return Generator(read_infinity(folder, config, pick_device(device)))


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def read_infinity(folder: Path, config: InfinityConfig, device: torch.device) -> Infinity:
    """Read `transformer.safetensors`, `tokenizer.safetensors` and `text_encoder/` of a model folder."""
    blocks_per_chunk = config.transformer.depth // config.transformer.num_chunks
    transformer_file, tokenizer_file = folder / "transformer.safetensors", folder / "tokenizer.safetensors"
    with torch.device("meta"):
        transformer = Transformer(config.transformer, config.bits_per_token)
        tokenizer = Tokenizer(config.tokenizer)
    _fill(transformer, device)
    _fill(tokenizer, device)
    weights = transformer_from_official(read_tensors(transformer_file), blocks_per_chunk)
    load_into(transformer, weights, source=str(transformer_file))
    load_into(tokenizer, tokenizer_from_official(read_tensors(tokenizer_file)), source=str(tokenizer_file))
    text_encoder = TextEncoder.from_folder(folder / "text_encoder", device)
    return Infinity(
        config,
        transformer,
        tokenizer,
        text_encoder,
        fingerprint=fingerprint(folder / "config.json", tokenizer_file),
    )


def _fill(module: nn.Module, device: torch.device) -> None:
    """Give a module made on the meta device memory of its own, without initialising it first."""
    module.to_empty(device=device).requires_grad_(False).eval()
