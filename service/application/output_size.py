"""OutputSize: the size that is drawn, and the size that the client asked for and gets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from service.errors import InvalidRequest
from service.model.engine.generator import Generator
from service.model.schedule import Size

# Bounds of resized images: 2560x1440 is the largest that OpenAI does not call experimental.
MIN_SIDE = 16
MAX_SIDE = 4096
MAX_PIXELS = 2048 * 2048


@dataclass(frozen=True, slots=True)
class OutputSize:
    """`resized_to` is None where the image stays as it is drawn."""

    drawn: Size
    resized_to: Size | None = None

    @property
    def size(self) -> Size:
        return self.resized_to or self.drawn

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.resized_to is None:
            return ()
        width, height = self.resized_to.width, self.resized_to.height
        is_cropped = self.drawn.width * height != self.drawn.height * width
        then = "resized and cropped" if is_cropped else "resized"
        return (f"size {self.resized_to} is not enabled: drawn at {self.drawn}, the nearest, and {then}",)


def output_size(text: str, generator: Generator, *, is_resizing: bool) -> OutputSize:
    """What `text`, WIDTHxHEIGHT or auto, asks for. InvalidRequest for a size that is not enabled, unless
    `is_resizing` and it is within the bounds.
    """
    if text == "auto":
        return OutputSize(generator.default_size)
    by_name = {str(size): size for size in generator.sizes}
    if text in by_name:
        return OutputSize(by_name[text])
    if not is_resizing:
        raise _not_enabled(text, generator)
    try:
        asked = Size.parse(text)
    except ValueError:
        raise _refusal(
            f"{text!r} is no size: write auto, or WIDTHxHEIGHT. {generator.name} has sizes of its own; "
            f"{_draws(generator)}"
        ) from None
    sides = asked.width, asked.height
    if min(sides) < MIN_SIDE or max(sides) > MAX_SIDE or asked.width * asked.height > MAX_PIXELS:
        raise _refusal(
            f"{text} is out of bounds: a side has {MIN_SIDE} to {MAX_SIDE} pixels, and an image at most "
            f"{MAX_PIXELS}. {generator.name} has sizes of its own; {_draws(generator)}"
        )
    return OutputSize(_nearest(asked, generator), asked)


def size_of_picture(width: int, height: int, generator: Generator) -> OutputSize:
    """The enabled size for a picture of this size, where a request says auto."""
    return OutputSize(_nearest(Size(width, height), generator))


def _nearest(asked: Size, generator: Generator) -> Size:
    """Of the enabled sizes, the one of the nearest aspect ratio, and of those that are as near (to a tenth),
    the one of the nearest area; of two areas as near the larger, since shrinking loses less.
    """

    def distance(size: Size) -> tuple[float, float, int]:
        of_ratio = math.log(size.width / size.height) - math.log(asked.width / asked.height)
        area = size.width * size.height
        return round(abs(of_ratio), 1), abs(math.log(area / (asked.width * asked.height))), -area

    return min(generator.sizes, key=distance)


def _refusal(problem: str) -> InvalidRequest:
    return InvalidRequest(problem, param="size", code="unsupported_size")


def _not_enabled(text: str, generator: Generator) -> InvalidRequest:
    draws = _draws(generator)
    return _refusal(
        f"{text} is not enabled on this service; {draws} ATELIER_SIZES enables more."
        if text in map(str, generator.native_sizes)
        else f"{generator.name} has no size {text}; {draws}"
    )


def _draws(generator: Generator) -> str:
    return f"it draws {', '.join(map(str, generator.sizes))} (auto is {generator.default_size})."
