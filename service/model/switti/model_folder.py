"""A model folder: config.json, and the transformer, image tokenizer and two text encoders that it names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from service.model.checkpoints.family import (
    Conversion,
    ConvertedFile,
    Family,
    halved_names,
    network_bytes,
)
from service.model.checkpoints.loader import (
    OnProgress,
    Part,
    fingerprint_of,
    match,
    no_progress,
    open_weights,
    shapes_of,
)
from service.model.checkpoints.options import DecodingChoice
from service.model.device.fp8 import hold_in_fp8
from service.model.device.linear import linear_weights, use_row_tile
from service.model.device.precision import FULL, Precision, TextEncoderDevice
from service.model.schedule import Schedule, Size
from service.model.switti.backbone import Switti, require_whole
from service.model.switti.config import FilesConfig, SwittiConfig
from service.model.switti.memory import batch_bytes
from service.model.switti.presets import (
    CLIP,
    POOLED_CLIP,
    POOLED_TEXT_PARAMETERS,
    PRESETS,
    TEXT_PARAMETERS,
)
from service.model.switti.schedules import schedules
from service.model.switti.text_encoders import TextEncoders, empty_encoder
from service.model.switti.tokenizer import Tokenizer
from service.model.switti.transformer import Transformer
from service.model.switti.weight_names import (
    TEXT_NAMING,
    TOKENIZER_NAMING,
    TRANSFORMER_NAMING,
    is_clip_text,
)


@dataclass(frozen=True, slots=True)
class SwittiCheckpoint:
    """A Switti that is not resident."""

    config: SwittiConfig
    folder: Path

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def schedules(self) -> dict[Size, Schedule]:
        return schedules(self.config)

    @property
    def files(self) -> Sequence[Path]:
        files = self.config.files
        names = (files.transformer, files.tokenizer, files.text_encoder, files.pooled_text_encoder)
        return [self.folder / name for name in names]

    @property
    def smaller_schedules(self) -> Mapping[str, Schedule]:
        """None: a Switti is trained for one schedule."""
        return {}

    def weight_bytes(self, blocks: torch.dtype) -> int:
        return network_bytes(*empty_networks(self.config), blocks)

    def text_encoder_bytes(self, precision: Precision) -> int:
        if precision.text_device is not TextEncoderDevice.BESIDE:
            return 0
        files = self.config.files
        released = {CLIP.into: TEXT_PARAMETERS, POOLED_CLIP.into: POOLED_TEXT_PARAMETERS}
        num_parameters = sum(
            released[name] if name in released else _num_text_parameters(self.folder / name)
            for name in (files.text_encoder, files.pooled_text_encoder)
        )
        return precision.text.itemsize * num_parameters

    def batch_bytes(self, schedule: Schedule, num_images: int, dtype: torch.dtype, *, in_strips: bool) -> int:
        return batch_bytes(self.config, num_images, dtype)

    def open_parts(self) -> tuple[Part[Transformer], Part[Tokenizer]]:
        """Find the weights and check that they are this model's. ValueError: the file and the difference."""
        transformer, tokenizer = empty_networks(self.config)
        transformer_file, tokenizer_file, *_ = self.files
        weights, name = open_weights(transformer_file), self.name
        coded = open_weights(tokenizer_file)
        return (
            Part.of(transformer, weights, TRANSFORMER_NAMING, f"{name}'s transformer"),
            Part.of(tokenizer, coded, TOKENIZER_NAMING, f"{name}'s image tokenizer"),
        )

    def load(
        self,
        device: torch.device,
        *,
        precision: Precision = FULL,
        decoding: DecodingChoice = "auto",
        compile: bool = False,
        on_progress: OnProgress = no_progress,
    ) -> Switti:
        require_whole(self.config, decoding)
        transformer, tokenizer = self.open_parts()
        *_, text_folder, pooled_folder = self.files
        text_encoders = TextEncoders.from_folders(
            text_folder,
            pooled_folder,
            self.config.transformer,
            device,
            precision.text,
            place=precision.text_device,
            on_progress=on_progress,
        )
        num_mapped = tokenizer.make_resident(device, on_progress)
        own_fingerprint = fingerprint(self.config, tokenizer.module)  # the stored values': in any precision
        tokenizer.module.hold_decoder_in(precision.blocks)
        transformer.module.hold_blocks_in(precision.blocks)  # while it is without memory
        num_mapped += transformer.make_resident(device, on_progress)
        if precision.fp8:
            hold_in_fp8(transformer.module.blocks)
        switti = Switti(
            self.config,
            transformer.module,
            tokenizer.module,
            text_encoders,
            fingerprint=own_fingerprint,
            decoding=decoding,
            mapped_bytes=num_mapped + text_encoders.mapped_bytes,
        )
        if compile:
            switti.compile()
            if device.type == "cuda":
                switti.steps.capture()
        is_exact = device.type == "cpu" and not compile and not precision.fp8
        use_row_tile([*text_encoders.weights_on_cpu, *(cpu_matrices(switti) if is_exact else [])])
        return switti

    def conversion(self) -> Conversion:
        transformer, tokenizer = self.open_parts()
        halved = halved_names(transformer.module)
        files = FilesConfig()
        *_, text_folder, pooled_folder = self.files
        return Conversion(
            config_json=replace(self.config, files=files).to_json(),
            copies={
                f"{files.text_encoder}/config.json": text_folder / "config.json",
                f"{files.text_encoder}/tokenizer.json": text_folder / "tokenizer.json",
                f"{files.pooled_text_encoder}/config.json": pooled_folder / "config.json",
            },
            files=[
                _converted_encoder(text_folder, files.text_encoder),
                _converted_encoder(pooled_folder, files.pooled_text_encoder),
                ConvertedFile(files.tokenizer, tokenizer.weights, tokenizer.naming, []),
                ConvertedFile(files.transformer, transformer.weights, transformer.naming, halved),
            ],
        )


FAMILY = Family(PRESETS, SwittiConfig.from_settings, SwittiCheckpoint)


def empty_networks(config: SwittiConfig) -> tuple[Transformer, Tokenizer]:
    """Without memory."""
    with torch.device("meta"):
        transformer = Transformer(config.transformer, config.tokenizer, len(config.grids))
        return transformer, Tokenizer(config.tokenizer)


def cpu_matrices(switti: Switti) -> list[torch.Tensor]:
    """The matrices that a batch's rows are multiplied by on the CPU, of each shape.

    Besides the linear layers: the parts of the joint projection, and the codebook, by which codes are mixed.
    """
    matrices = linear_weights(switti.transformer)
    width = switti.config.transformer.width
    joint = [weight for weight in matrices if weight.shape == (3 * width, width)]
    halves = [half for weight in joint[:1] for half in (weight[: 2 * width], weight[2 * width :])]
    return [*matrices, *halves, switti.tokenizer.codebook.weight.T.contiguous()]


def fingerprint(config: SwittiConfig, tokenizer: nn.Module) -> str:
    """Of the image tokenizer and the grids it codes on."""
    return fingerprint_of(["switti", asdict(config.tokenizer), config.grids], tokenizer)


def _num_text_parameters(folder: Path) -> int:
    stored = open_weights(folder, holds=is_clip_text).stored
    return sum(math.prod(stored[name].shape) for name in stored if is_clip_text(name))


def _converted_encoder(folder: Path, into: str) -> ConvertedFile:
    weights = open_weights(folder, holds=is_clip_text)
    encoder = empty_encoder(folder / "config.json", torch.device("meta"), torch.float32)
    shapes = shapes_of(getattr(encoder, "text_model", encoder))
    match(shapes, weights, TEXT_NAMING, model="the text encoder")
    return ConvertedFile(f"{into}/model.safetensors", weights, TEXT_NAMING, list(shapes))
