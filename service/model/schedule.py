"""Sizes of images, and the token grids that make one up."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """The size of an image in pixels; written `WIDTHxHEIGHT`, as the OpenAI API does."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read `"64x64"`; ValueError when the text has another form."""
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
        if match is None:
            raise ValueError(f"a size is written WIDTHxHEIGHT, such as 1024x1024, not {text!r}")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class Scale:
    """One token grid of a schedule."""

    height: int
    width: int

    @property
    def num_tokens(self) -> int:
        return self.height * self.width

    def times(self, factor: int) -> Scale:
        return Scale(self.height * factor, self.width * factor)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The scales of one image size, coarse to fine."""

    size: Size
    scales: tuple[Scale, ...]

    @property
    def num_tokens(self) -> int:
        return sum(scale.num_tokens for scale in self.scales)

    @property
    def name(self) -> str:
        """A short, unambiguous name of the grids: part of a style feature's cache key."""
        return "-".join(f"{scale.height}.{scale.width}" for scale in self.scales)
