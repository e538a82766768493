"""How well nano's image tokenizer keeps a picture, and how well its transformer draws what a caption says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.evaluation.intervals import Estimate, estimated_mean, share
from service.evaluation.judge import Judge, Verdict, is_coloured
from service.evaluation.references import report_references
from service.evaluation.stylisation import draw_all, things_of
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.backbone import Infinity
from service.training.captions import full_caption
from service.training.outside_pictures import outside_picture
from service.training.scene import MEDIA, OBJECTS, Scene, random_scene
from service.training.sheets import reconstructed

# Apart from every stream of the training: those begin with the recipe's seed.
_SCENES = 71
_NUM_SEEDS = 8  # of a caption, to see how images of one caption differ
Shares = dict[str, Estimate]  # by what the judge reads: object, top five, colour, background, medium, all


@dataclass(frozen=True, slots=True, eq=False)
class Fidelity:
    """What the judge reads as the caption says, in shares; and the image tokenizer's PSNR in dB."""

    psnr: dict[str, Estimate]  # "renders", each medium, "outside"
    renders: Shares  # as the judge reads renders themselves
    reconstructions: Shares  # the same after the image tokenizer: what can be hoped for
    prompts: Shares  # of pictures drawn from full captions
    held_out: Shares  # the same of pairs of thing and medium that no training had
    without_articles: Shares  # of `prompts` without a, an and the
    by_medium: dict[str, Shares]  # of `prompts`
    by_object: dict[str, tuple[int, int]]  # of `prompts`: images that show the object, of how many
    seeds: Seeds


@dataclass(frozen=True, slots=True)
class Seeds:
    """How much images of one caption differ from seed to seed."""

    num_captions: int
    deviation: (
        Estimate  # standard deviation over the seeds, mean over pixels and captions; share of the range
    )
    kept: Estimate  # the object is seen


def captioned_scenes(
    seed: int, num: int, things: Sequence[str] = OBJECTS, *, held_out: bool = False
) -> list[Scene]:
    """Scenes of `things`, in pairs of thing and medium that the training had, or in those it had not."""
    rng = np.random.default_rng([_SCENES, seed, int(held_out)])
    scenes: list[Scene] = []
    while len(scenes) < num:
        if (scene := random_scene(rng, held_out=held_out)).object in things:
            scenes.append(scene)
    return scenes


def evaluate_fidelity(generator: Generator, judge: Judge, num_images: int, seed: int) -> Fidelity:
    """From `num_images` captions, a quarter as many of held-out pairs, and the renders that ship."""
    references = report_references()
    renders = np.stack([reference.picture for reference in references])
    rendered = [reference.scene for reference in references]
    back = reconstructed(_infinity(generator).tokenizer, renders)
    things = things_of(generator)
    scenes = captioned_scenes(seed, num_images, things)
    read = _reader(generator, judge, seed)
    verdict = read(scenes, full_caption)
    others = captioned_scenes(seed, -(-num_images // 4), things, held_out=True)
    media = np.array([scene.medium for scene in scenes])
    objects = np.array([scene.object for scene in scenes])
    seen = verdict.agrees("object", scenes)
    return Fidelity(
        psnr=_quality(generator, rendered, renders, back, seed),
        renders=_shares(judge.judge(renders), rendered),
        reconstructions=_shares(judge.judge(back), rendered),
        prompts=_shares(verdict, scenes),
        held_out=_shares(read(others, full_caption), others),
        without_articles=_shares(read(scenes, partial(full_caption, article=False)), scenes),
        by_medium={
            name: _shares(verdict, scenes, np.flatnonzero(media == name)) for name in MEDIA if name in media
        },
        by_object={
            name: (int(seen[objects == name].sum()), int((objects == name).sum()))
            for name in OBJECTS
            if name in objects
        },
        seeds=_seeds(generator, judge, scenes[: -(-num_images // 32)], seed),
    )


def psnr(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[pictures] in dB."""
    error = ((pictures.astype(float) - others.astype(float)) ** 2).mean(axis=(1, 2, 3))
    return np.asarray(10 * np.log10(255**2 / np.maximum(error, 1e-3)))


def deviation(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[captions] of pictures [captions, seeds, h, w, 3]: standard deviation over seeds, of a range of 1."""
    found = (pictures.astype(float) / 255).std(axis=1)
    return np.asarray(found.mean(axis=(1, 2, 3)))


def _quality(
    generator: Generator,
    scenes: Sequence[Scene],
    renders: NDArray[np.uint8],
    back: NDArray[np.uint8],
    seed: int,
) -> dict[str, Estimate]:
    rng = np.random.default_rng([73, seed])
    outside = np.stack([outside_picture(rng) for _ in range(200)])
    quality, media = psnr(renders, back), np.array([scene.medium for scene in scenes])
    of_outside = psnr(outside, reconstructed(_infinity(generator).tokenizer, outside))
    return {
        "renders": estimated_mean(quality),
        **{name: estimated_mean(quality[media == name]) for name in MEDIA if name in media},
        "outside": estimated_mean(of_outside),
    }


def _reader(
    generator: Generator, judge: Judge, seed: int
) -> Callable[[Sequence[Scene], Callable[[Scene], str]], Verdict]:
    def read(scenes: Sequence[Scene], write: Callable[[Scene], str]) -> Verdict:
        specs = [
            ImageSpec(write(scene), seed + index, generator.default_size)
            for index, scene in enumerate(scenes)
        ]
        return judge.judge(draw_all(generator, specs))

    return read


def _seeds(generator: Generator, judge: Judge, scenes: Sequence[Scene], seed: int) -> Seeds:
    specs = [
        ImageSpec(full_caption(scene), seed + offset, generator.default_size)
        for scene in scenes
        for offset in range(_NUM_SEEDS)
    ]
    drawn = draw_all(generator, specs)
    seen = judge.judge(drawn).agrees("object", [scene for scene in scenes for _ in range(_NUM_SEEDS)])
    by_caption = drawn.reshape(len(scenes), _NUM_SEEDS, *drawn.shape[1:])
    return Seeds(len(scenes), estimated_mean(deviation(by_caption)), share(seen))


def _infinity(generator: Generator) -> Infinity:
    assert isinstance(generator.backbone, Infinity)
    return generator.backbone


def _shares(
    verdict: Verdict, scenes: Sequence[Scene], chosen: NDArray[np.intp] | None = None
) -> dict[str, Estimate]:
    """Of the chosen pictures, all by default. The colour is judged where the caption names one."""
    index = np.arange(len(scenes)) if chosen is None else chosen
    coloured = is_coloured(scenes)
    agreement = {name: verdict.agrees(name, scenes) for name in ("object", "colour", "background", "medium")}
    named = agreement["colour"] | ~coloured
    shares = {
        "object": share(agreement["object"][index]),
        "object, of five": share(verdict.lists(scenes)[index]),
        "background": share(agreement["background"][index]),
        "medium": share(agreement["medium"][index]),
        "all": share((agreement["object"] & named & agreement["background"] & agreement["medium"])[index]),
    }
    if coloured[index].any():
        shares["colour"] = share(agreement["colour"][index][coloured[index]])
    return shares
