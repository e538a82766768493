"""What a backbone's package offers the registry: its presets, and how its model folders are read.

A package `service/model/NAME/` has a `FAMILY`, which `registry.FAMILIES` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

from service.model.backbone import AnyBackbone
from service.model.checkpoints.loader import Naming, OnProgress, Weights
from service.model.checkpoints.options import DecodingChoice
from service.model.device.precision import Precision
from service.model.schedule import Schedule, Size


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the hub's pages say of a file at the pinned revision, when a preset was written."""

    name: str
    gigabytes: float  # rounded to three digits, as they show it
    sha256: str | None = None  # None where it could not be looked up


@dataclass(frozen=True, slots=True)
class Source:
    """Files of a repository on the hub, and the folder they get."""

    repository: str
    revision: str  # a commit, the first digits of one where no more is known, or a branch
    into: str  # a folder in the models folder, "" for itself
    files: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()  # folders of weights, "" for the repository itself
    holds: Callable[[str], bool] | None = None  # fetch only the shards with a tensor whose name this accepts
    known: tuple[KnownFile, ...] = ()


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """One safetensors file that `convert` writes."""

    path: str  # in the folder
    weights: Weights
    naming: Naming
    halved: Sequence[str]  # our names of the tensors that are not fp32 when the model runs in half precision


@dataclass(frozen=True, slots=True)
class Conversion:
    config_json: str
    copies: Mapping[str, Path]  # files that are copied: name in the folder -> original
    files: Sequence[ConvertedFile]


class TransformerNetwork(Protocol):
    def hold_blocks_in(self, dtype: torch.dtype) -> None: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


class TokenizerNetwork(Protocol):
    def hold_decoder_in(self, dtype: torch.dtype) -> None: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def network_bytes(transformer: TransformerNetwork, tokenizer: TokenizerNetwork, blocks: torch.dtype) -> int:
    """Of both networks, which may be without memory, with blocks and decoder in this dtype."""
    transformer.hold_blocks_in(blocks)
    tokenizer.hold_decoder_in(blocks)
    return sum(parameter.nbytes for network in (transformer, tokenizer) for parameter in network.parameters())


def halved_names(transformer: TransformerNetwork) -> list[str]:
    """Of the parameters that are not fp32 when the model runs in half precision."""
    transformer.hold_blocks_in(torch.bfloat16)
    return [name for name, parameter in transformer.named_parameters() if parameter.dtype == torch.bfloat16]


class Checkpoint(Protocol):
    """A model that is not resident: its configuration, and the folder of its files. Sizes are in bytes."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def schedules(self) -> dict[Size, Schedule]:
        """The native sizes; the first is the default."""

    @property
    def files(self) -> Sequence[Path]:
        """Files and folders that must be there."""

    @property
    def smaller_schedules(self) -> Mapping[str, Schedule]:
        """What takes less memory, largest first: a setting of config.json, and its default schedule."""

    def weight_bytes(self, blocks: torch.dtype) -> int:
        """Of the resident weights except the text encoder's, with blocks in this dtype."""

    def text_encoder_bytes(self, precision: Precision) -> int:
        """Of the text encoder on the model's device between batches. May read the list of its tensors."""

    def batch_bytes(self, schedule: Schedule, num_images: int, dtype: torch.dtype, *, in_strips: bool) -> int:
        """The most that a batch of stylised images takes beside the weights."""

    def load(
        self,
        device: torch.device,
        *,
        precision: Precision,
        decoding: DecodingChoice = "auto",
        compile: bool = False,
        on_progress: OnProgress,
    ) -> AnyBackbone:
        """Make it resident. ValueError names the file and what is wrong with it, before the first is read."""

    def conversion(self) -> Conversion:
        """What a folder holds that `convert` writes. ValueError when the files do not fit the model."""


ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, slots=True)
class Preset(Generic[ConfigT]):
    """A released model. Its config names files of the models folder, where `sources` puts them."""

    config: ConfigT
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Family(Generic[ConfigT]):
    presets: Mapping[str, Preset[ConfigT]]
    read_config: Callable[[Mapping[str, object]], ConfigT]  # config.json; ValueError names the field
    checkpoint: Callable[[ConfigT, Path], Checkpoint]
