"""A model folder: config.json, and the transformer, image tokenizer and text encoder that it names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from service.model.checkpoints.family import (
    Conversion,
    ConvertedFile,
    Family,
    halved_names,
    network_bytes,
)
from service.model.checkpoints.loader import (
    Naming,
    OnProgress,
    Part,
    Shape,
    Weights,
    fingerprint_of,
    match,
    no_progress,
    open_weights,
    shapes_of,
)
from service.model.checkpoints.options import DecodingChoice
from service.model.device.fp8 import hold_in_fp8
from service.model.device.linear import linear_weights, use_row_tile
from service.model.device.memory import MAX_IMAGES
from service.model.device.precision import FULL, Precision, TextEncoderDevice
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import FilesConfig, InfinityConfig
from service.model.infinity.memory import footprint
from service.model.infinity.presets import FLAN, NUM_TEXT_PARAMETERS, NUM_TEXT_PARAMETERS_IN_FP32, RELEASED
from service.model.infinity.schedules import BUDGETS, schedules
from service.model.infinity.t5 import TextEncoder, empty_encoder
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Block, Transformer
from service.model.infinity.weight_names import (
    TEXT_NAMING,
    TOKENIZER_NAMING,
    is_text_encoder,
    transformer_naming,
)
from service.model.schedule import Schedule, Size

# The released image tokenizers keep their tensors one level in, and may keep averaged ones beside them; the
# reference runs on the former.
_NESTS = ("vae", "ema")


@dataclass(frozen=True, slots=True)
class InfinityCheckpoint:
    """An Infinity that is not resident."""

    config: InfinityConfig
    folder: Path

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def schedules(self) -> dict[Size, Schedule]:
        return self.config.schedules()

    @property
    def files(self) -> Sequence[Path]:
        files = self.config.files
        return [self.folder / name for name in (files.transformer, files.tokenizer, files.text_encoder)]

    @property
    def smaller_schedules(self) -> Mapping[str, Schedule]:
        names = list(BUDGETS)[: list(BUDGETS).index(self.config.budget)] if self.config.budget else []
        return {f"budget {name}": next(iter(schedules(name).values())) for name in reversed(names)}

    def weight_bytes(self, blocks: torch.dtype) -> int:
        return network_bytes(*empty_networks(self.config), blocks)

    def text_encoder_bytes(self, precision: Precision) -> int:
        if precision.text_device is not TextEncoderDevice.BESIDE:
            return 0
        num_full = 0
        if self.config.files.text_encoder == FLAN.into:
            num_parameters = NUM_TEXT_PARAMETERS
            if precision.text is torch.float16:
                num_full = NUM_TEXT_PARAMETERS_IN_FP32
        else:
            stored = self._text_weights().stored
            num_parameters = sum(math.prod(stored[name].shape) for name in stored if is_text_encoder(name))
        return precision.text.itemsize * (num_parameters - num_full) + 4 * num_full

    def batch_bytes(self, schedule: Schedule, num_images: int, dtype: torch.dtype, *, in_strips: bool) -> int:
        num_at_once = 0 if in_strips else MAX_IMAGES
        return footprint(self.config, schedule, num_images, dtype, lambda _: num_at_once).peak

    def open_parts(self) -> tuple[Part[Transformer], Part[Tokenizer]]:
        """Find the weights and check that they are this model's. ValueError: the file and the difference."""
        config = self.config
        transformer, tokenizer = empty_networks(config)  # their memory is filled from the files
        naming = transformer_naming(config.transformer.blocks_per_chunk)
        transformer_file, tokenizer_file, _ = self.files
        return (
            Part.of(
                transformer,
                open_weights(transformer_file, nests=_NESTS),
                naming,
                f"{config.name}'s transformer",
                recognised=_recognised,
            ),
            Part.of(
                tokenizer,
                open_weights(tokenizer_file, nests=_NESTS),
                TOKENIZER_NAMING,
                f"{config.name}'s image tokenizer",
                recognised=_recognised,
            ),
        )

    def load(
        self,
        device: torch.device,
        *,
        precision: Precision = FULL,
        decoding: DecodingChoice = "auto",
        compile: bool = False,
        on_progress: OnProgress = no_progress,
    ) -> Infinity:
        config, (transformer_part, tokenizer_part) = self.config, self.open_parts()
        text_encoder = TextEncoder.from_folder(
            self.folder / config.files.text_encoder,
            device,
            precision.text,
            place=precision.text_device,
            fillers=config.vocabulary.fillers if config.vocabulary else None,
            channels=config.transformer.text_channels,
            on_progress=on_progress,
        )
        transformer, tokenizer = transformer_part.module, tokenizer_part.module
        num_mapped = tokenizer_part.make_resident(device, on_progress)
        own_fingerprint = fingerprint(config, tokenizer)  # the stored values': in any precision the same
        tokenizer.hold_decoder_in(precision.blocks)
        transformer.hold_blocks_in(precision.blocks)  # while it is without memory
        num_mapped += transformer_part.make_resident(device, on_progress)
        if precision.fp8:
            hold_in_fp8(transformer.blocks)
        infinity = Infinity(
            config,
            transformer,
            tokenizer,
            text_encoder,
            fingerprint=own_fingerprint,
            decoding=decoding,
            mapped_bytes=num_mapped + text_encoder.mapped_bytes,
        )
        if compile:
            infinity.compile()
            if device.type == "cuda":
                infinity.steps.capture()
        is_exact = not compile and not precision.fp8
        use_row_tile([*text_encoder.weights_on_cpu, *(cpu_matrices(transformer) if is_exact else [])])
        return infinity

    def conversion(self) -> Conversion:
        (transformer, tokenizer), text, files = self.open_parts(), self._text_weights(), FilesConfig()
        text_folder = self.folder / self.config.files.text_encoder
        encoder = empty_encoder(text_folder / "config.json", torch.device("meta"), torch.float32)
        match(shapes_of(encoder), text, TEXT_NAMING, model="the text encoder")
        halved = halved_names(transformer.module)
        inside = files.text_encoder
        return Conversion(
            config_json=replace(self.config, files=files).to_json(),
            copies={f"{inside}/{name}": text_folder / name for name in ("config.json", "tokenizer.json")},
            files=[
                ConvertedFile(f"{inside}/model.safetensors", text, TEXT_NAMING, list(shapes_of(encoder))),
                ConvertedFile(files.tokenizer, tokenizer.weights, tokenizer.naming, []),
                ConvertedFile(files.transformer, transformer.weights, transformer.naming, halved),
            ],
        )

    def _text_weights(self) -> Weights:
        return open_weights(self.folder / self.config.files.text_encoder, holds=is_text_encoder)


FAMILY = Family(RELEASED, InfinityConfig.from_settings, InfinityCheckpoint)


def empty_networks(config: InfinityConfig) -> tuple[Transformer, Tokenizer]:
    """Without memory."""
    with torch.device("meta"):
        return Transformer(config.transformer, config.bits_per_token), Tokenizer(config.tokenizer)


def cpu_matrices(transformer: Transformer) -> list[Tensor]:
    """The matrices that a batch's rows are multiplied by on the CPU, of each shape; none on another device.

    Besides the linear layers: parts of the joint projection, and the products of a short text with two
    projections (`TextAttention.reader`). Self-attention multiplies one image's rows at a time: the batch
    does not change its shapes.
    """
    if transformer.start.device.type != "cpu":
        return []
    block = transformer.blocks[0]
    assert isinstance(block, Block)
    attention, text = block.attention, block.text_attention
    width, num_heads = text.query.weight.shape[0], text.num_heads
    halves = [attention.qkv.weight[: 2 * width], attention.qkv.weight[2 * width :]]
    of_texts = [
        matrix
        for num_tokens in (1, 7, width // num_heads // 2)
        for matrix in (
            text.query.weight[: num_heads * num_tokens],
            text.out.weight[:, : num_heads * num_tokens].contiguous(),
        )
    ]
    return [*linear_weights(transformer), *halves, *of_texts]


def fingerprint(config: InfinityConfig, tokenizer: nn.Module) -> str:
    """Of the image tokenizer and the grids it codes on."""
    return fingerprint_of([asdict(config.tokenizer), config.patch, config.budget, config.grids], tokenizer)


def _recognised(weights: Weights) -> str:
    """A sentence on which released file this may be, by its names and shapes; empty if it is none of them."""
    if any(name.startswith("encoder.block.") for name in weights.stored):
        return " It looks like a T5 text encoder."
    found = []
    for name, preset in RELEASED.items():
        transformer, tokenizer = map(shapes_of, empty_networks(preset.config))
        if _shapes(weights, transformer_naming(preset.config.transformer.blocks_per_chunk)) == transformer:
            found.append(f"the transformer of {name}")
        if _shapes(weights, TOKENIZER_NAMING) == tokenizer:
            found.append(f"the image tokenizer of {name}")
    return f" It looks like {' or '.join(found)}." if found else ""


def _shapes(weights: Weights, naming: Naming) -> dict[str, Shape]:
    stored = weights.stored
    return {own: stored[name].shape for own, name in naming.ours({name: name for name in stored}).items()}
