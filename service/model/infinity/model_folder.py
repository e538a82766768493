"""A model folder: config.json, and the transformer, image tokenizer and text encoder that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.model.checkpoints.loader import (
    Misfit,
    Naming,
    OnProgress,
    Weights,
    load_weights,
    match,
    no_progress,
    open_weights,
)
from service.model.checkpoints.options import DecodingChoice
from service.model.device.precision import FULL, Precision
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import FilesConfig, InfinityConfig
from service.model.infinity.presets import recognise
from service.model.infinity.t5 import TextEncoder
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer
from service.model.infinity.weight_names import (
    TOKENIZER_NAMING,
    tokenizer_to_official,
    transformer_naming,
    transformer_to_official,
)

# The released image tokenizers keep their tensors one level in, and may keep averaged ones beside them; the
# reference runs on the former.
_NESTS = ("vae", "ema")


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two networks of a model, its weights found to fit and not yet read."""

    module: nn.Module  # without memory
    weights: Weights
    naming: Naming
    model: str

    def make_resident(self, device: torch.device, on_progress: OnProgress) -> int:
        """Bytes of the weights that stay in their file, mapped."""
        self.module.to_empty(device=device).requires_grad_(False).eval()
        return load_weights(self.module, self.weights, self.naming, model=self.model, on_progress=on_progress)


@dataclass(frozen=True, slots=True)
class Parts:
    transformer: Part
    tokenizer: Part


def read_config(file: Path) -> InfinityConfig:
    """A folder's config.json. ValueError names the file and the field."""
    try:
        return InfinityConfig.from_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def open_parts(config: InfinityConfig, folder: Path) -> Parts:
    """Find the weights of a model and see that they are its own. ValueError: the file and the difference."""
    with torch.device("meta"):  # their memory is filled from the files, not initialised first
        transformer = Transformer(config.transformer, config.bits_per_token)
        tokenizer = Tokenizer(config.tokenizer)
    naming = transformer_naming(config.transformer.blocks_per_chunk)
    return Parts(
        _part(transformer, folder / config.files.transformer, naming, f"{config.name}'s transformer"),
        _part(
            tokenizer, folder / config.files.tokenizer, TOKENIZER_NAMING, f"{config.name}'s image tokenizer"
        ),
    )


def read_infinity(
    config: InfinityConfig,
    folder: Path,
    device: torch.device,
    *,
    precision: Precision = FULL,
    decoding: DecodingChoice = "auto",
    on_progress: OnProgress = no_progress,
) -> Infinity:
    """Make a model resident, from a folder's files. ValueError names the file and what is wrong with it.

    Every file is looked at before the first is read, so that a wrong one is not found minutes later.
    """
    parts = open_parts(config, folder)
    text_encoder = TextEncoder.from_folder(
        folder / config.files.text_encoder,
        device,
        precision.text,
        place=precision.text_place,
        fillers=config.vocabulary.fillers if config.vocabulary else (),
        channels=config.transformer.text_channels,
        on_progress=on_progress,
    )
    transformer, tokenizer = parts.transformer.module, parts.tokenizer.module
    assert isinstance(transformer, Transformer)
    assert isinstance(tokenizer, Tokenizer)
    num_mapped = parts.tokenizer.make_resident(device, on_progress)
    own_fingerprint = fingerprint(config, tokenizer)  # the stored values': in any precision the same
    tokenizer.hold_decoder_in(precision.blocks)
    transformer.hold_blocks_in(precision.blocks)  # while it is without memory
    num_mapped += parts.transformer.make_resident(device, on_progress)
    return Infinity(
        config,
        transformer,
        tokenizer,
        text_encoder,
        fingerprint=own_fingerprint,
        decoding=decoding,
        mapped_bytes=num_mapped + text_encoder.mapped_bytes,
    )


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


def fingerprint(config: InfinityConfig, tokenizer: nn.Module) -> str:
    """16 hex characters over what decides a style feature: the image tokenizer and the grids it codes on.

    Of the values and not of the files, so that a converted model has its original's. Of nothing else, so that
    another way of sampling, or another word about the model, leaves the features that are kept of use.
    """
    settings = [asdict(config.tokenizer), config.patch, config.budget, config.grids]
    digest = sha256(json.dumps(settings, sort_keys=True).encode())
    for name, parameter in sorted(tokenizer.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _part(module: nn.Module, path: Path, naming: Naming, model: str) -> Part:
    weights = open_weights(path, nests=_NESTS)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    try:
        match(shapes, weights, naming, model=model)
    except Misfit as error:
        raise Misfit(f"{error}.{recognise(weights)}") from error
    return Part(module, weights, naming, model)


def _save(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    save_file({name: tensor.detach().to(dtype).contiguous() for name, tensor in tensors.items()}, file)
