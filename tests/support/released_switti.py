"""Switti's checkpoints in the released form, of random weights: names, folders, shapes of the real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from transformers import CLIPTextConfig

from service.evaluation.random_weights import clip_words
from service.model.checkpoints.convert import write_safetensors
from service.model.checkpoints.loader import Shape, Stored, shapes_of
from service.model.switti.config import SwittiConfig
from service.model.switti.model_folder import empty_networks
from service.model.switti.presets import PRESETS
from service.model.switti.text_encoders import empty_encoder
from service.model.switti.weight_names import text_to_released, tokenizer_to_official, transformer_to_official
from tests.support.released_files import RandomTensors


def shrunk(name: str) -> SwittiConfig:
    """A preset's configuration with its variant and file names, narrow and short enough for a test."""
    config = PRESETS[name].config
    return replace(
        config,
        transformer=replace(
            config.transformer, depth=2, width=64, num_heads=2, text_channels=48, pooled_channels=32
        ),
        tokenizer=replace(config.tokenizer, num_codes=300, channels=8, num_blocks=1, num_groups=4),
        sampling=replace(config.sampling, num_guided_steps=4),
        grids=(1, 2, 3, 4, 6),
    )


def released_transformer(config: SwittiConfig) -> dict[str, Shape]:
    """Official names and shapes, the buffers among them."""
    transformer, _ = empty_networks(config)
    num_tokens = sum(side**2 for side in config.grids)
    buffers = {"lvl_1L": (1, num_tokens), "attn_bias_for_masking": (1, 1, num_tokens, num_tokens)}
    return transformer_to_official(shapes_of(transformer)) | buffers


def released_tokenizer(config: SwittiConfig) -> dict[str, Shape]:
    _, tokenizer = empty_networks(config)
    counts = {"quantize.ema_vocab_hit_SV": (len(config.grids), config.tokenizer.num_codes)}
    return tokenizer_to_official(shapes_of(tokenizer)) | counts


def write_released(models_dir: Path, config: SwittiConfig) -> None:
    """All files of a model, named and laid out as they are after `atelier fetch`."""
    files, shape = config.files, config.transformer
    write_weights(models_dir / files.transformer, released_transformer(config))
    write_weights(models_dir / files.tokenizer, released_tokenizer(config))
    widths = (shape.text_channels - shape.pooled_channels, shape.pooled_channels)
    for name, channels in zip((files.text_encoder, files.pooled_text_encoder), widths, strict=True):
        write_clip(models_dir / name, channels, shape.max_text_tokens)
    words, _ = clip_words()
    words.save(str(models_dir / files.text_encoder / "tokenizer.json"))


def write_weights(folder: Path, shapes: Mapping[str, Shape]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header = {name: Stored(shape, torch.float32) for name, shape in shapes.items()}
    write_safetensors(folder / "model.safetensors", header, RandomTensors(shapes, torch.float32).items())


def write_clip(folder: Path, channels: int, max_tokens: int) -> None:
    """A tiny CLIP, with tensors of its other tower."""
    folder.mkdir(parents=True, exist_ok=True)
    _, num_words = clip_words()
    settings = CLIPTextConfig(
        vocab_size=num_words,
        hidden_size=channels,
        intermediate_size=2 * channels,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_tokens,
        bos_token_id=num_words - 2,
        eos_token_id=num_words - 1,
    ).to_dict()
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": settings}))
    encoder = empty_encoder(folder / "config.json", torch.device("meta"), torch.float32)
    shapes = text_to_released(shapes_of(getattr(encoder, "text_model", encoder)))
    others: dict[str, Shape] = {"vision_model.post_layernorm.weight": (4,), "logit_scale": ()}
    write_weights(folder, shapes | others)
