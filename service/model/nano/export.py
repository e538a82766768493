"""Writing a model folder: configuration, weights in fp16 under the released names, and the text encoder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from transformers import T5EncoderModel

from service.model.infinity.names import tokenizer_to_official, transformer_to_official
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer
from service.model.nano.recipe import CONFIG
from service.model.nano.words import write_vocabulary


def export(
    folder: Path, transformer: Transformer, tokenizer: Tokenizer, text_encoder: T5EncoderModel
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in asdict(CONFIG).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    blocks_per_chunk = CONFIG.transformer.depth // CONFIG.transformer.num_chunks
    parts = {
        "transformer": transformer_to_official(dict(transformer.named_parameters()), blocks_per_chunk),
        "tokenizer": tokenizer_to_official(dict(tokenizer.named_parameters())),
    }
    for name, tensors in parts.items():
        halves = {key: tensor.detach().half().contiguous() for key, tensor in tensors.items()}
        save_file(halves, folder / f"{name}.safetensors")
    write_vocabulary(folder / "text_encoder")
    text_encoder.half().save_pretrained(folder / "text_encoder")
