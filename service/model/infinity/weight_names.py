"""Our parameter names and those of the released Infinity files, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TypeVar

from service.model.checkpoints.loader import Naming

T = TypeVar("T")  # what is named does not matter
# Released files may or may not hold these: constants (golden README, 1.4 and 7), and what upstream's own
# loader computes anew (`lvl_1L`, the mask and the two lengths).
_UNUSED = re.compile(
    r".*\.zero_k_bias|lvl_1L|attn_bias_for_masking|Infinity_visible_kvlen|Infinity_invisible_qlen"
)
# Constants again, and what a training run of an image tokenizer keeps beside it: discriminators, the networks
# of its losses, counters of moving averages and of batch norms.
_UNUSED_IN_TOKENIZER = re.compile(
    r"quantizer?\.lfq\.mask"
    r"|((image|video)_)?disc(riminator)?\..*"
    r"|(perceptual_(model|loss)|lpips|loss)\..*"
    r"|(model_)?ema\.(decay|num_updates)"
    r"|.*\.num_batches_tracked"
)
_IN_BLOCK = {
    "modulation": "ada_gss",
    "attention.logit_scale": "sa.scale_mul_1H11",
    "attention.q_bias": "sa.q_bias",
    "attention.v_bias": "sa.v_bias",
    "attention.qkv": "sa.mat_qkv",
    "attention.out": "sa.proj",
    "text_norm": "ca_norm",
    "text_attention.query": "ca.mat_q",
    "text_attention.key_value": "ca.mat_kv",
    "text_attention.v_bias": "ca.v_bias",
    "text_attention.out": "ca.proj",
    "feedforward.up": "ffn.fc1",
    "feedforward.down": "ffn.fc2",
}
_OUTSIDE = {
    "unconditional_text": "cfg_uncond",
    "text_in": "text_proj_for_ca",
    "pool.query": "text_proj_for_sos.ca.mat_q",
    "pool.key_value": "text_proj_for_sos.ca.mat_kv",
    "pool.v_bias": "text_proj_for_sos.ca.v_bias",
    "pool.out": "text_proj_for_sos.ca.proj",
    "start": "pos_start",
    "positions": "pos_embed",
    "scale_embedding": "lvl_embed",
    "code_in": "word_embed",
    "modulation": "shared_ada_lin.1",
    "head_modulation": "head_nm.ada_lin.1",
}
_BLOCK = re.compile(r"block_chunks\.(\d+)\.module\.(\d+)\.(.+)")
_OWN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_NOT_ENCODER = re.compile(r"decoder\.|lm_head\.|encoder\.embed_tokens\.")
# The released tokenizer wraps each convolution and norm once more; some files are saved without the wrapper.
_WRAPPED = re.compile(r"\b(conv_in|conv_out|conv1|conv2|nin_shortcut|norm1|norm2|norm_out)\.(?:conv|norm)\.")
_RESAMPLE = re.compile(r"\b(?:downsample|upsample)\.(?:conv\.)+")


def transformer_from_official(tensors: Mapping[str, T], blocks_per_chunk: int) -> dict[str, T]:
    """Rename the tensors of a released transformer; a name we do not know is kept, to be reported as such."""
    inside = {official: own for own, official in _IN_BLOCK.items()}
    outside = {official: own for own, official in _OUTSIDE.items()}

    def rename(name: str) -> str:
        if match := _BLOCK.fullmatch(name):
            index = int(match[1]) * blocks_per_chunk + int(match[2])
            return f"blocks.{index}.{_swap(match[3], inside)}"
        return _swap(name, outside)

    return {rename(name): tensor for name, tensor in tensors.items() if not _UNUSED.fullmatch(name)}


def transformer_to_official(tensors: Mapping[str, T], blocks_per_chunk: int) -> dict[str, T]:
    """The inverse, without what is not used."""

    def rename(name: str) -> str:
        if match := _OWN_BLOCK.fullmatch(name):
            chunk, module = divmod(int(match[1]), blocks_per_chunk)
            return f"block_chunks.{chunk}.module.{module}.{_swap(match[2], _IN_BLOCK)}"
        return _swap(name, _OUTSIDE)

    return {rename(name): tensor for name, tensor in tensors.items()}


def tokenizer_from_official(tensors: Mapping[str, T]) -> dict[str, T]:
    """Rename the tensors of a released image tokenizer, wrapped or not."""

    return {
        _RESAMPLE.sub("resample.conv.", _WRAPPED.sub(r"\1.", name)): tensor
        for name, tensor in tensors.items()
        if not _UNUSED_IN_TOKENIZER.fullmatch(name)
    }


def tokenizer_to_official(tensors: Mapping[str, T]) -> dict[str, T]:
    """The inverse, in the wrapped form."""

    def rename(name: str) -> str:
        if ".resample.conv." in name:
            kind = "downsample" if name.startswith("encoder.") else "upsample"
            return name.replace(".resample.conv.", f".{kind}.conv.conv.")
        inner = r"\b((?:conv|nin_shortcut)\w*)\.(weight|bias)"
        name = re.sub(inner, r"\1.conv.\2", name)
        return re.sub(r"\b(norm\w*)\.(weight|bias)", r"\1.norm.\2", name)

    return {rename(name): tensor for name, tensor in tensors.items()}


def text_from_released(tensors: Mapping[str, T]) -> dict[str, T]:
    """The encoder's part of a T5, whose words' table the files name once, twice or three times."""
    shared = "shared.weight" if "shared.weight" in tensors else "encoder.embed_tokens.weight"
    return {
        "shared.weight" if name == shared else name: tensor
        for name, tensor in tensors.items()
        if name == shared or not _NOT_ENCODER.match(name)
    }


def transformer_naming(blocks_per_chunk: int) -> Naming:
    return Naming(
        ours=partial(transformer_from_official, blocks_per_chunk=blocks_per_chunk),
        released=partial(transformer_to_official, blocks_per_chunk=blocks_per_chunk),
        cut=frozenset({"unconditional_text"}),  # upstream cuts it to the longest text, too
    )


TOKENIZER_NAMING = Naming(ours=tokenizer_from_official, released=tokenizer_to_official)
TEXT_NAMING = Naming(ours=text_from_released, released=dict)


def is_text_encoder(name: str) -> bool:
    """Whether a tensor of a T5 belongs to its encoder."""
    return not name.startswith(("decoder.", "lm_head."))


def _swap(name: str, table: Mapping[str, str]) -> str:
    """Replace the longest prefix of dotted parts that the table knows."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (head := ".".join(parts[:length])) in table:
            return ".".join([table[head], *parts[length:]])
    return name
