"""Encoding prompts: together, once, and never alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.model.engine.generator import Generator
from service.model.engine.text_cache import TextCache
from service.model.engine.types import ImageSpec, Text
from service.model.infinity.backbone import Infinity
from tests.support.specs import SQUARE
from tests.support.tiny import tiny_generator, tiny_infinity

WORDS = ["red", "blue", "star", "mug", "cat", "green", "heart", "house", "fish", "tree"]


class CountingInfinity(Infinity):
    """The tiny model, which notes what it was asked to encode, and each pass of its encoder."""

    def __init__(self) -> None:
        of = tiny_infinity()
        super().__init__(of.config, of.transformer, of.tokenizer, of.text_encoder, fingerprint="0" * 16)
        self.asked: list[list[str]] = []
        self.num_passes = 0
        assert of.text_encoder is not None
        of.text_encoder._encoder.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.num_passes += 1

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        self.asked.append(list(prompts))
        return super().encode_texts(prompts)


@torch.inference_mode()
@pytest.mark.parametrize("num_words", [1, 3, 4, 7, 20])
def test_a_prompt_is_encoded_alike_alone_and_with_any_others(num_words: int) -> None:
    model = tiny_infinity()
    prompts = [" ".join(WORDS[(i + j) % 10] for j in range(num_words)) for i in range(5)]
    together = model.encode_texts([*prompts, "a star", ""])
    for prompt, text in zip(prompts, together, strict=False):
        assert torch.equal(text.conditioning, model.encode_text(prompt).conditioning)
    assert together[-1].num_tokens == 1


def test_prompts_of_one_length_take_one_pass_and_a_repeated_one_takes_none() -> None:
    model = CountingInfinity()
    generator = Generator(model)
    specs = [ImageSpec(prompt, 1, SQUARE) for prompt in ("a star", "a mug", "a red star", "a star")]
    first = generator.generate(specs)
    assert model.asked == [["a mug", "a red star", "a star"]]
    assert model.num_passes == 2
    again = generator.generate(specs[::-1])
    assert model.num_passes == 2
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again[::-1], strict=True))
    generator.generate([replace(specs[0], negative_prompt="a cat")])
    assert model.asked[1:] == [["a cat"]]


def test_the_texts_used_last_are_kept_within_the_bound() -> None:
    encoded: list[str] = []

    def encode(prompts: Sequence[str]) -> list[Text]:
        encoded.extend(prompts)
        return [Text(prompt, len(prompt), 16 * len(prompt)) for prompt in prompts]

    texts = TextCache(encode, max_bytes=64)
    for prompt in ("aa", "bb", "aa", "cc", "aa", "bb"):
        assert texts.texts_of([prompt])[prompt].num_tokens == 2
    assert encoded == ["aa", "bb", "cc", "bb"]
    assert texts.texts_of(["longer than all"])["longer than all"].num_tokens == 15
    texts.texts_of(["aa"])
    assert encoded[4:] == ["longer than all"]


def test_images_do_not_depend_on_what_was_encoded_before() -> None:
    spec = ImageSpec("a red star", 11, SQUARE)
    used = tiny_generator()
    used.generate([replace(spec, prompt="a blue mug"), spec])
    assert np.array_equal(used.generate([spec])[0].image, tiny_generator().generate([spec])[0].image)
