"""What is drawn before the first job comes, so that it pays for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from service.model.engine.quality import Qualities
from service.model.engine.types import ImageSpec, Method, PreviewRequest, Styling
from service.model.schedule import Size


def stylised(size: Size, styling: Styling) -> list[ImageSpec]:
    """One stylised image: all that a model needs whose kernels are there already."""
    return [ImageSpec("warm up", 0, size, styling=styling)]


def of_every_kind(
    size: Size, styling: Styling, qualities: Qualities, num_steps: int
) -> Iterator[list[ImageSpec]]:
    """Batches of whatever compiled code has a version for, which is made when the first of a kind comes.

    A path follows another, or attends by itself, or there is but one; it has two guidance halves, or one, or
    loses one on the way; there is one of all that, or there are several; images of every step are decoded.
    """
    (plain,) = stylised(size, styling)
    seen = replace(plain, previews=PreviewRequest(tuple(range(1, num_steps)), lambda partial: None))
    stylings = (styling, replace(styling, method=Method.PFB), None)
    shortcuts = dict.fromkeys(qualities.shortcuts().values())
    for each, guidance, shorter in product(stylings, (None, 1.0), shortcuts):
        one = replace(seen, styling=each, guidance=guidance, shortcuts=shorter)
        yield [one]
        yield [one, replace(one, seed=1)]
        if each is not None:  # several that follow one path
            yield [one, replace(one, styling=replace(each, strength=0.5))]
