"""Models with random weights: the true shapes without the checkpoints, for speed and for tests."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer as WordTokenizer
from tokenizers import normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from service.model.checkpoints import registry
from service.model.checkpoints.options import DecodingChoice
from service.model.device.fp8 import hold_in_fp8
from service.model.device.precision import FULL, Precision, TextEncoderDevice, forbid_tf32
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import (
    InfinityConfig,
    SamplingConfig,
    TokenizerConfig,
    TransformerConfig,
)
from service.model.infinity.model_folder import InfinityCheckpoint
from service.model.infinity.presets import RELEASED
from service.model.infinity.t5 import TextEncoder
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer
from service.model.nano.words import VOCABULARY, untrained_encoder, write_vocabulary
from service.model.switti import config as switti
from service.model.switti import presets as switti_presets
from service.model.switti.backbone import Switti
from service.model.switti.model_folder import SwittiCheckpoint
from service.model.switti.schedules import GRIDS_512
from service.model.switti.text_encoders import ClipTower, TextEncoders
from service.model.switti.tokenizer import Tokenizer as SwittiTokenizer
from service.model.switti.transformer import Transformer as SwittiTransformer

# Small enough for a CPU to draw a megapixel, large enough that arithmetic and not overhead decides.
BENCH_512 = InfinityConfig(
    name="bench-512",
    transformer=TransformerConfig(depth=8, width=512, num_heads=4, text_channels=128, max_text_tokens=64),
    tokenizer=TokenizerConfig(
        num_bits=32, stride=16, channels=8, multipliers=(1, 1, 2, 2, 2), num_blocks=1, num_groups=4
    ),
    sampling=SamplingConfig(guidance=3.0, temperature=0.5),
    budget="0.25M",
)

BENCH_SWITTI_512 = switti.SwittiConfig(
    name="bench-switti-512",
    transformer=switti.TransformerConfig(
        depth=2, width=256, num_heads=4, is_causal=False, text_channels=128, pooled_channels=64
    ),
    tokenizer=switti.TokenizerConfig(
        num_codes=512, code_channels=32, channels=8, multipliers=(1, 1, 2, 2, 4), num_blocks=1, num_groups=4
    ),
    sampling=switti.SamplingConfig(num_guided_steps=8),
    grids=GRIDS_512,
)
AnyConfig = InfinityConfig | switti.SwittiConfig

_CONFIGS: tuple[AnyConfig, ...] = (
    BENCH_512,
    *(preset.config for preset in RELEASED.values()),
    BENCH_SWITTI_512,
    *(preset.config for preset in switti_presets.PRESETS.values()),
)
SHAPES = {config.name: config for config in _CONFIGS}


def shape_of(name_or_path: str) -> AnyConfig:
    """The configuration of a shape by name, or of a model folder's config.json; its weights are not needed.

    ValueError with a sentence when there is none.
    """
    folder = registry.BUNDLED.get(name_or_path, Path(name_or_path))
    if name_or_path in SHAPES:
        return SHAPES[name_or_path]
    if not (folder / "config.json").is_file():
        known = ", ".join((*registry.BUNDLED, *SHAPES))
        raise ValueError(
            f"There is no shape {name_or_path!r}: give one of {known}, or a folder with config.json."
        )
    found = registry.open_folder(folder)
    assert isinstance(found, InfinityCheckpoint | SwittiCheckpoint)  # the families that there are
    return found.config


def random_model(
    config: AnyConfig, seed: int, device: torch.device, precision: Precision, decoding: DecodingChoice
) -> Infinity | Switti:
    """Random weights of either family's shape."""
    make = random_infinity if isinstance(config, InfinityConfig) else random_switti
    return make(config, seed, device, precision, decoding)  # type: ignore[arg-type]  # of the same family


def random_infinity(
    config: InfinityConfig,
    seed: int = 0,
    device: torch.device = torch.device("cpu"),  # noqa: B008  a constant
    precision: Precision = FULL,
    decoding: DecodingChoice = "auto",
) -> Infinity:
    """Weights large enough that every branch changes the result; equal seeds give equal weights."""
    if device.type == "cuda":
        forbid_tf32()
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        transformer = Transformer(config.transformer, config.bits_per_token)
        tokenizer = Tokenizer(config.tokenizer)
        words, encoder = _text_encoder(config)
        _shake(transformer)
    tokenizer.hold_decoder_in(precision.blocks)
    transformer.hold_blocks_in(precision.blocks)
    if precision.fp8:
        hold_in_fp8(transformer.blocks)
    text_home = device if precision.text_device is TextEncoderDevice.BESIDE else torch.device("cpu")
    text_encoder = TextEncoder(
        words,
        encoder.to(text_home, precision.text),  # type: ignore[arg-type]  # the library's own annotation
        device=device,
        is_fetched=precision.text_device is TextEncoderDevice.FETCHED,
    )
    return Infinity(
        config,
        transformer.requires_grad_(False).eval(),
        tokenizer.requires_grad_(False).eval(),
        text_encoder,
        fingerprint=f"{seed:016x}",
        decoding=decoding,
    )


def random_switti(
    config: switti.SwittiConfig,
    seed: int = 0,
    device: torch.device = torch.device("cpu"),  # noqa: B008  a constant
    precision: Precision = FULL,
    decoding: DecodingChoice = "auto",
) -> Switti:
    """As `random_infinity`; its fingerprints are others."""
    if device.type == "cuda":
        forbid_tf32()
    shape = config.transformer
    words, num_words = clip_words()
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        transformer = SwittiTransformer(shape, config.tokenizer, len(config.grids))
        tokenizer = SwittiTokenizer(config.tokenizer)
        towers = [
            _clip(channels, num_words, config)
            for channels in (shape.text_channels - shape.pooled_channels, shape.pooled_channels)
        ]
        for parameter in transformer.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=1.0 / parameter.shape[-1] ** 0.5)
        # As far apart as the codes are: else nearly every picture would be read as the same ones.
        tokenizer.quant_conv.weight.data.mul_(8)
    tokenizer.hold_decoder_in(precision.blocks)
    transformer.hold_blocks_in(precision.blocks)
    if precision.fp8:
        hold_in_fp8(transformer.blocks)
    text_home = device if precision.text_device is TextEncoderDevice.BESIDE else torch.device("cpu")
    reads_on = device if precision.text_device is TextEncoderDevice.FETCHED else text_home
    tower, pooled_tower = (
        ClipTower(encoder.to(text_home, precision.text).requires_grad_(False), reads_on)  # type: ignore[arg-type]
        for encoder in towers
    )
    return Switti(
        config,
        transformer.requires_grad_(False).eval(),
        tokenizer.requires_grad_(False).eval(),
        TextEncoders(words, tower, pooled_tower, device=device, max_tokens=shape.max_text_tokens),
        fingerprint=f"5{seed:015x}",
        decoding=decoding,
    )


def _clip(channels: int, num_words: int, config: switti.SwittiConfig) -> CLIPTextModel:
    """Of the released towers' shapes for the released models, else a tiny one."""
    released = {768: (12, 12), 1280: (32, 20)}  # layers and heads
    is_released = config.name in switti_presets.PRESETS
    num_layers, num_heads = released[channels] if is_released else (2, 2)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49_408 if is_released else num_words,
            hidden_size=channels,
            intermediate_size=4 * channels,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            max_position_embeddings=config.transformer.max_text_tokens,
            hidden_act="quick_gelu" if channels == 768 else "gelu",
            bos_token_id=num_words - 2,
            eos_token_id=num_words - 1,
        )
    )


def clip_words() -> tuple[WordTokenizer, int]:
    """nano's words between CLIP's two marks, and how many IDs there are."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    ids = {word: index for index, word in enumerate((*VOCABULARY, "<unk>", start, end))}
    words = WordTokenizer(WordLevel(ids, unk_token="<unk>"))  # noqa: S106  a word
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, ids[start]), (end, ids[end])]
    )
    return words, len(ids)


def _text_encoder(config: InfinityConfig) -> tuple[WordTokenizer, T5EncoderModel]:
    """Of flan-t5-xl's shape for the released models, else a tiny one; the words are nano's either way."""
    with tempfile.TemporaryDirectory() as folder:
        num_words = write_vocabulary(Path(folder))
        words = WordTokenizer.from_file(f"{folder}/tokenizer.json")
    if config.name in RELEASED:
        return words, T5EncoderModel(
            T5Config(
                vocab_size=32_128, d_model=config.transformer.text_channels, d_kv=64, d_ff=5120,
                num_layers=24, num_heads=32, feed_forward_proj="gated-gelu", dropout_rate=0.0,
                pad_token_id=0, eos_token_id=1,
            )
        )  # fmt: skip
    return words, untrained_encoder(num_words, config.transformer.text_channels)


def _shake(transformer: Transformer) -> None:
    for parameter in transformer.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    for block in transformer.blocks:
        nn.init.uniform_(block.attention.logit_scale, 0.5, 3.0)  # type: ignore[union-attr, arg-type]
