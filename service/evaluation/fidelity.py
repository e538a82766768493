"""How well nano's image tokenizer keeps a picture, and how well its transformer draws what a caption says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.intervals import Estimate, estimated_mean, share
from service.evaluation.judge import ATTRIBUTES, Judge
from service.evaluation.stylisation import draw_all
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.backbone import Infinity
from service.training.captions import full_caption
from service.training.outside_pictures import outside_picture
from service.training.scene import MEDIA, OBJECTS, Scene
from service.training.sheets import reconstructed


@dataclass(frozen=True, slots=True, eq=False)
class Fidelity:
    """Estimates by name: PSNR in dB, the rest shares."""

    psnr: dict[str, Estimate]  # "renders", each medium, "outside"
    renders: dict[str, Estimate]  # each attribute and "all four", as the judge reads renders themselves
    reconstructions: dict[str, Estimate]  # the same after the image tokenizer: what can be hoped for
    prompts: dict[str, Estimate]  # the same of pictures drawn from full captions
    by_object: dict[str, Estimate]  # all four right, of pictures drawn from captions
    by_medium: dict[str, Estimate]


def evaluate_fidelity(
    generator: Generator, judge: Judge, scenes: Sequence[Scene], renders: NDArray[np.uint8], seed: int
) -> Fidelity:
    """From held-out scenes and their renders [scenes, 64, 64, 3]."""
    tokenizer = _infinity(generator).tokenizer
    back = reconstructed(tokenizer, renders)
    quality = psnr(renders, back)
    media = np.array([scene.medium for scene in scenes])
    rng = np.random.default_rng([73, seed])
    outside = np.stack([outside_picture(rng) for _ in range(200)])
    of_media = {name: estimated_mean(quality[media == name]) for name in MEDIA if name in media}
    of_outside = estimated_mean(psnr(outside, reconstructed(tokenizer, outside)))

    specs = [
        ImageSpec(full_caption(scene), seed + index, generator.default_size)
        for index, scene in enumerate(scenes)
    ]
    drawn = _agreement(judge, draw_all(generator, specs), scenes)
    right = np.all(drawn, axis=1)
    objects = np.array([scene.object for scene in scenes])
    return Fidelity(
        psnr={"renders": estimated_mean(quality), **of_media, "outside": of_outside},
        renders=_shares(_agreement(judge, renders, scenes)),
        reconstructions=_shares(_agreement(judge, back, scenes)),
        prompts=_shares(drawn),
        by_object={name: share(right[objects == name]) for name in OBJECTS if name in objects},
        by_medium={name: share(right[media == name]) for name in MEDIA if name in media},
    )


def psnr(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[pictures] in dB."""
    error = ((pictures.astype(float) - others.astype(float)) ** 2).mean(axis=(1, 2, 3))
    return np.asarray(10 * np.log10(255**2 / np.maximum(error, 1e-3)))


def _infinity(generator: Generator) -> Infinity:
    assert isinstance(generator.backbone, Infinity)
    return generator.backbone


def _agreement(judge: Judge, pictures: NDArray[np.uint8], scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """[pictures, attributes]"""
    verdict = judge.judge(pictures)
    return np.stack([verdict.agrees(name, list(scenes)) for name in ATTRIBUTES], axis=1)


def _shares(agreement: NDArray[np.bool_]) -> dict[str, Estimate]:
    by_name = {name: share(agreement[:, index]) for index, name in enumerate(ATTRIBUTES)}
    return {**by_name, "all four": share(np.all(agreement, axis=1))}
