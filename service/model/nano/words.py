"""The tiny T5 of nano: a word-level vocabulary and an untrained encoder, laid out like the large ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from torch import nn
from transformers import T5Config, T5EncoderModel

# head token: the other spellings that mean the same to the model. The head of "wood grain" is "wood".
SPELLINGS: dict[str, str] = {
    "circle": "circles disc disk ball round dot",
    "square": "squares box block",
    "triangle": "triangles triangular pyramid",
    "star": "stars starry",
    "heart": "hearts love valentine",
    "house": "houses home homes cottage cabin hut building",
    "tree": "trees fir firs pine pines spruce christmas",
    "fish": "fishes goldfish",
    "mug": "mugs cup cups teacup coffee",
    "car": "cars automobile automobiles auto vehicle taxi",
    "flower": "flowers blossom blossoms daisy bloom",
    "cat": "cats kitten kittens kitty feline",
    "red": "crimson scarlet ruby",
    "orange": "tangerine amber",
    "yellow": "golden gold lemon",
    "green": "emerald",
    "teal": "turquoise cyan aqua",
    "blue": "navy cobalt azure",
    "purple": "violet lilac",
    "pink": "rose magenta",
    "white": "ivory snowy",
    "black": "ebony",
    "flat": "plain solid vector",
    "outline": "outlined outlines contour line sketch",
    "stripes": "striped stripe stripy",
    "checker": "checkered chequered checked checkerboard chequerboard",
    "wood": "grain wooden woodgrain timber",
    "watercolour": "watercolor watercolours watercolors aquarelle painting painted wash",
    "pixel": "pixels pixelated pixelart mosaic",
    "neon": "glowing glow luminous",
    "background": "backdrop ground wall",
    "style": "styled art medium pattern texture look",
    "picture": "pictures image drawing icon photo illustration",
    "drawn": "made shown rendered done",
    "a": "an the one some",
    "on": "onto over against upon",
    "in": "with as",
    "of": "and",
}
VOCABULARY: Mapping[str, str] = MappingProxyType(
    {word: head for head, others in SPELLINGS.items() for word in (head, *others.split())}
)
"""Every known word, lower case, and the token it stands for. Split text with `words` before looking it up."""
_SPECIAL = ("<pad>", "</s>", "<unk>")


def write_vocabulary(folder: Path) -> int:
    """Write `tokenizer.json`, where every spelling of a word has that word's ID; returns how many IDs.

    Written by hand because the tokenizers library keeps only one spelling an ID when it saves.
    """
    heads = dict.fromkeys(VOCABULARY.values())
    ids = {token: index for index, token in enumerate((*_SPECIAL, *heads))}
    vocabulary = {token: ids[token] for token in _SPECIAL}
    vocabulary |= {word: ids[head] for word, head in VOCABULARY.items()}
    special = [
        {"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for token in _SPECIAL
    ]  # fmt: skip
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": special,
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "NFD"},
                        {"type": "StripAccents"},
                        {"type": "Lowercase"},
                        {"type": "Replace", "pattern": {"Regex": "[^a-z0-9]+"}, "content": " "},
                    ],
                },
                "pre_tokenizer": {"type": "WhitespaceSplit"},
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, end],
                    "special_tokens": {"</s>": {"id": "</s>", "ids": [ids["</s>"]], "tokens": ["</s>"]}},
                },
                "decoder": None,
                "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
            },
            indent=1,
        )
        + "\n"
    )
    return len(ids)


def untrained_encoder(num_ids: int, channels: int) -> T5EncoderModel:
    """T5's encoder, shaped for short captions, with positions that are heard from the first step on.

    Scores are not divided by anything, so learnt words soon outshout T5's own small initial positions; then
    "red on blue" and "blue on red" stay the same to it, and no gradient ever says otherwise.
    """
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=num_ids, d_model=channels, d_kv=16, d_ff=3 * channels // 2, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    for parameter_name, parameter in encoder.named_parameters():
        if "relative_attention_bias" in parameter_name:
            nn.init.normal_(parameter, std=2.0)
    return encoder
