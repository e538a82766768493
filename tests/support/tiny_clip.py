"""Two tiny CLIPs with random weights, in folders laid out like those of the hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import CLIPTextConfig, CLIPTextModel

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("a", "red", "star", "in", "neon", "big", "house")
MAX_TOKENS = 10
NUM_CHANNELS = (16, 32)  # of the two: 48 together, 32 pooled; whole vectors of any CPU, as released ones are


def write_clips(folder: Path) -> tuple[Path, Path]:
    """The folders of the plain and of the pooled encoder."""
    folders = (folder / "clip", folder / "pooled_clip")
    for index, (place, channels) in enumerate(zip(folders, NUM_CHANNELS, strict=True)):
        place.mkdir()
        write_words(place / "tokenizer.json")
        torch.manual_seed(index)
        encoder = tiny_clip(channels)
        settings = {key: value for key, value in encoder.config.to_dict().items() if key != "architectures"}
        # The hub's files describe and hold both towers.
        (place / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": settings}))
        module = getattr(encoder, "text_model", encoder)
        tensors = {f"text_model.{name}": weight.detach() for name, weight in module.named_parameters()}
        tensors |= {
            "text_model.embeddings.position_ids": torch.arange(MAX_TOKENS)[None],
            "text_projection.weight": torch.zeros(channels, channels),
            "vision_model.post_layernorm.weight": torch.zeros(4),
            "logit_scale": torch.zeros(()),
        }
        save_file(tensors, place / "model.safetensors")
    return folders


def tiny_clip(channels: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(WORDS) + 3,
            hidden_size=channels,
            intermediate_size=2 * channels,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            eos_token_id=len(WORDS) + 2,
        )
    ).eval()


def write_words(file: Path) -> None:
    """Word by word, with CLIP's two marks; the end mark has the highest ID, as it has there."""
    ids = {word: index for index, word in enumerate((*WORDS, "<unk>", START, END))}
    words = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([START, END])
    words.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    words.save(str(file))
