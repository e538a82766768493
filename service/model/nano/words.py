"""nano's words: the things it draws (`things.txt`), and the tiny T5 that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import nn
from transformers import T5Config, T5EncoderModel

_IRREGULAR = {
    "deer": "deer", "die": "dice", "fish": "fish", "knife": "knives", "leaf": "leaves", "mouse": "mice",
    "scarf": "scarves", "sheep": "sheep", "tooth": "teeth", "wolf": "wolves", "snowman": "snowmen",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that nano draws, in lower case."""

    name: str  # one word or several, singular where there is one
    label: str  # what emojibase calls its picture
    synonyms: tuple[str, ...]  # single words

    @property
    def is_plural(self) -> bool:
        """As scissors are."""
        return self.name.endswith("s") and not self.name.endswith(("ss", "us"))

    @property
    def plural(self) -> str:
        if self.is_plural:
            return self.name
        *before, last = self.name.split()
        return " ".join([*before, plural(last)])


def plural(noun: str) -> str:
    """Of a singular, single word."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def _things() -> tuple[Thing, ...]:
    things = []
    for line in Path(__file__).with_name("things.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            named, _, synonyms = line.partition(":")
            name, _, label = (part.strip() for part in named.partition("="))
            things.append(Thing(name, label or name, tuple(synonyms.split())))
    return tuple(things)


THINGS: tuple[Thing, ...] = _things()

# Of colours, media, poses and filling words. Head token: the other spellings that mean the same to the model.
SPELLINGS: dict[str, str] = {
    "red": "crimson scarlet ruby",
    "orange": "amber",
    "yellow": "golden gold",
    "green": "emerald",
    "teal": "turquoise cyan aqua",
    "blue": "navy cobalt azure",
    "purple": "violet lilac",
    "pink": "magenta",
    "white": "ivory snowy",
    "black": "ebony",
    "flat": "plain solid vector",
    "ink": "outline outlined outlines contour sketch sketched line inked",
    "clay": "3d modelled sculpted plasticine",
    "neon": "glowing glow luminous",
    "pixel": "pixels pixelated pixelart mosaic",
    "watercolour": "watercolor watercolours watercolors aquarelle painting painted wash",
    "stripes": "striped stripe stripy",
    "wood": "grain wooden woodgrain timber",
    "background": "backdrop ground wall",
    "style": "styled art medium pattern texture look",
    "picture": "pictures image drawing icon photo illustration",
    "drawn": "made shown rendered done",
    "centre": "center middle",
    "left": "",
    "right": "",
    "a": "an the one some two three several",
    "on": "onto over against upon",
    "in": "with as",
    "of": "and",
}


def _vocabulary() -> dict[str, str]:
    vocabulary = {word: head for head, others in SPELLINGS.items() for word in (head, *others.split())}
    for thing in THINGS:
        for word in thing.name.split():
            vocabulary.setdefault(word, word)
    for thing in THINGS:
        last = thing.name.split()[-1]
        vocabulary.setdefault(thing.plural.split()[-1], last)
        for word in thing.synonyms:
            # Where several words name a thing together, another name for it is a token of its own.
            head = word if " " in thing.name else thing.name
            vocabulary.setdefault(word, head)
            if not Thing(word, word, ()).is_plural:
                vocabulary.setdefault(plural(word), head)
    return vocabulary


VOCABULARY: Mapping[str, str] = MappingProxyType(_vocabulary())
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
