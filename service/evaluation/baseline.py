"""The plain two-run form as a baseline: timed, and compared with the engine bit by bit."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.evaluation.plain import draw
from service.evaluation.recording import Recording
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import InfinityConfig


@dataclass(frozen=True, slots=True, eq=False)
class PlainDrawing:
    """An image of the plain form, and the seconds of its runs, the text included and the decoder not."""

    image: NDArray[np.uint8]  # [height, width, 3]
    draw_seconds: float


@dataclass(frozen=True, slots=True)
class Equality:
    """How far the engine's image of a spec is from the plain form's."""

    num_bits: int
    num_different_bits: int
    largest_difference: int  # of a pixel, out of 255


def has_plain_form(config: InfinityConfig) -> bool:
    """The plain form knows one token a cell and guidance on the logits: not the 8B models."""
    return config.patch == 1 and config.sampling.guidance_layer == 0


@torch.inference_mode()
def draw_plainly(infinity: Infinity, spec: ImageSpec) -> PlainDrawing:
    began = time.perf_counter()
    feature = draw(infinity, spec).feature
    if feature.device.type == "cuda":  # the decoder's time is not the runs'
        torch.cuda.synchronize(feature.device)
    seconds = time.perf_counter() - began
    return PlainDrawing(infinity.decode(feature[None]).images()[0], seconds)


def equality(infinity: Infinity, spec: ImageSpec) -> Equality:
    """Draw a stylised image both ways. On the CPU no bit may differ; a GPU's kernels may round otherwise."""
    texts = {
        prompt: infinity.encode_text(prompt).conditioning for prompt in (spec.prompt, spec.negative_prompt)
    }
    recording = Recording.of(infinity, texts)
    Generator(recording).generate([spec])
    trace = draw(infinity, spec)
    ours, plain = recording.path_bits(1, 0), torch.cat(trace.bits)
    image = Generator(infinity).generate([spec])[0].image.astype(int)
    difference = np.abs(image - infinity.decode(trace.feature[None]).images()[0]).max()
    return Equality(plain.numel(), int((ours != plain).sum()), int(difference))
