"""TF32, which rounds inputs to 10 bits on a GPU, is off wherever a style is decided, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
import torch

from service.model.backbone import AnyBackbone
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from tests.support.backbones import ON_EVERY_BACKBONE, generator_of

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def allowed() -> tuple[bool, bool]:
    """Whether torch may round in convolutions, and in matrix products."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@contextmanager
def tf32_allowed() -> Iterator[None]:
    before = allowed()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Watched:
    """A backbone that notes what torch may do while it decides styles and decodes."""

    def __init__(self, backbone: AnyBackbone) -> None:
        self._backbone = backbone
        self.seen: dict[str, tuple[bool, bool]] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backbone, name)
        if name not in ("encode_image", "tokens_of_codes", "decompose", "decode"):
            return found

        def noted(*args: object, **kwargs: object) -> object:
            self.seen[name] = allowed()
            return found(*args, **kwargs)

        return noted


@ON_EVERY_BACKBONE
def test_a_style_is_read_and_decomposed_without_tf32_and_what_was_set_returns(backbone: str) -> None:
    watched = Watched(generator_of(backbone).backbone)
    generator, seen = Generator(cast(AnyBackbone, watched)), watched.seen
    size = generator.default_size
    with tf32_allowed():
        tokens = generator.read_tokens(PICTURE, size)
        assert (seen.pop("encode_image"), allowed()) == ((False, False), (True, True))
        generator.decompose(tokens, size)
        assert (seen.pop("decompose"), allowed()) == ((False, False), (True, True))
        generator.restore_style(tokens, size)
        assert (seen.pop("decompose"), allowed()) == ((False, False), (True, True))
        generator.tokens_of_text("a red star", 1)
        assert (seen.pop("tokens_of_codes"), allowed()) == ((False, False), (True, True))
        with pytest.raises(ValueError, match=r"."):
            generator.restore_style(type(tokens)(b"x", 1), size)
        assert allowed() == (True, True)
        generator.generate([ImageSpec("a red star", 1, size)])
        assert seen["decode"] == (True, True)
