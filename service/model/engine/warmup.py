"""Warm-up: what is drawn before the first job comes, so that it pays for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from service.model.engine.quality import Qualities
from service.model.engine.types import ImageSpec, Method, PreviewRequest


def compiled_batches(stylised: ImageSpec, qualities: Qualities, num_steps: int) -> Iterator[list[ImageSpec]]:
    """A batch for each version of compiled code, which is made when a batch first needs it.

    A path follows another, or attends by itself, or is alone; it has two guidance halves, or one, or loses
    one on the way; there is one of all that, or several; images of every step are decoded.
    """
    styling = stylised.styling
    assert styling is not None, "of the kinds of batches, most have a style"
    seen = replace(stylised, previews=PreviewRequest(tuple(range(1, num_steps)), lambda preview: None))
    stylings = (styling, replace(styling, method=Method.PFB), None)
    shortcuts = dict.fromkeys(qualities.shortcuts().values())
    for style, guidance, shorter in product(stylings, (None, 1.0), shortcuts):
        one = replace(seen, styling=style, guidance=guidance, shortcuts=shorter)
        yield [one]
        yield [one, replace(one, seed=1)]
        if style is not None:  # several that follow one path
            yield [one, replace(one, styling=replace(style, strength=0.5))]
