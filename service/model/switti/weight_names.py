"""Our parameter names and those of the released Switti and CLIP files, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from service.model.checkpoints.loader import Naming

T = TypeVar("T")  # what is named does not matter
# Released files may or may not hold these; they are constants or statistics of training (golden README, 7).
_BUFFERS = frozenset({"lvl_1L", "attn_bias_for_masking", "quantize.ema_vocab_hit_SV"})
_IN_BLOCK = {
    "crop_scale": "crop_cond_scales",
    "modulation": "ada_lin.1",
    "attention_norm": "self_attention_norm1",
    "attention.qkv": "attn.to_qkv",
    "attention.out": "attn.proj",
    "attention_out_norm": "self_attention_norm2",
    "text_norm": "cross_attention_norm1",
    "text_attention.norm": "attention_y_norm",
    "text_attention.query": "cross_attn.to_q",
    "text_attention.key_value": "cross_attn.to_kv",
    "text_attention.out": "cross_attn.proj",
    "text_out_norm": "cross_attention_norm2",
    "feedforward_norm": "ffn_norm1",
    "feedforward.gate": "ffn.gate_proj",
    "feedforward.up": "ffn.up_proj",
    "feedforward.down": "ffn.down_proj",
    "feedforward_out_norm": "ffn_norm2",
}
_OUTSIDE = {
    "start": "pos_start",
    "scale_embedding": "lvl_embed",
    "code_in": "word_embed",
    "pool": "text_pooler",
    "crop_frequencies": "crop_embed.weight",
    "crop_out": "crop_proj",
    "head_modulation": "head_nm.ada_lin.1",
    "head": "head",
}
_TOKENIZER = {"codebook": "quantize.embedding", "phis": "quantize.quant_resi.qresi_ls"}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_CLIP_TEXT = re.compile(r"text_model\.(?!embeddings\.position_ids$)(.+)")


def transformer_from_official(tensors: Mapping[str, T]) -> dict[str, T]:
    """Rename the tensors of a released transformer; a name we do not know is kept, to be reported as such."""
    inside, outside = _inverse(_IN_BLOCK), _inverse(_OUTSIDE)
    return {
        _renamed(name, inside, outside): tensor for name, tensor in tensors.items() if name not in _BUFFERS
    }


def transformer_to_official(tensors: Mapping[str, T]) -> dict[str, T]:
    """The inverse, without the constant buffers."""
    return {_renamed(name, _IN_BLOCK, _OUTSIDE): tensor for name, tensor in tensors.items()}


def tokenizer_from_official(tensors: Mapping[str, T]) -> dict[str, T]:
    """Rename the tensors of a released image tokenizer."""
    table = _inverse(_TOKENIZER)
    return {_swap(name, table): tensor for name, tensor in tensors.items() if name not in _BUFFERS}


def tokenizer_to_official(tensors: Mapping[str, T]) -> dict[str, T]:
    """The inverse, without the statistics of training."""
    return {_swap(name, _TOKENIZER): tensor for name, tensor in tensors.items()}


def text_from_released(tensors: Mapping[str, T]) -> dict[str, T]:
    """The text tower of a CLIP, without its projection; other towers are left out."""
    found = ((_CLIP_TEXT.fullmatch(name), tensor) for name, tensor in tensors.items())
    return {match[1]: tensor for match, tensor in found if match}


def text_to_released(tensors: Mapping[str, T]) -> dict[str, T]:
    return {f"text_model.{name}": tensor for name, tensor in tensors.items()}


def is_clip_text(name: str) -> bool:
    """Whether a tensor of a CLIP belongs to its text tower."""
    return name.startswith("text_model.")


TRANSFORMER_NAMING = Naming(ours=transformer_from_official, released=transformer_to_official)
TOKENIZER_NAMING = Naming(ours=tokenizer_from_official, released=tokenizer_to_official)
TEXT_NAMING = Naming(ours=text_from_released, released=text_to_released)


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {released: own for own, released in table.items()}


def _renamed(name: str, inside: Mapping[str, str], outside: Mapping[str, str]) -> str:
    if match := _BLOCK.fullmatch(name):
        return f"blocks.{match[1]}.{_swap(match[2], inside)}"
    return _swap(name, outside)


def _swap(name: str, table: Mapping[str, str]) -> str:
    """Replace the longest prefix of dotted parts that the table knows."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (head := ".".join(parts[:length])) in table:
            return ".".join([table[head], *parts[length:]])
    return name
