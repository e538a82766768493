"""What an image keeps of a picture: the promises of edits, on every backbone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from service.model.device.transfer import DecodedImages, pixels_of
from service.model.engine.edits import outside
from service.model.engine.generator import Generator
from service.model.engine.picture_cache import PictureCache
from service.model.engine.plan import PathEdit
from service.model.engine.types import Area, ContentPicture, Edit, ImageSpec, Path, Styling
from service.model.infinity.backbone import Infinity
from service.model.infinity.sampling import couple_bits, draw_noise
from service.model.infinity.tokenizer import accumulated, quantise
from service.model.schedule import Scale, Size
from service.model.style.tokens import StyleTokens
from tests.support.backbones import ON_EVERY_BACKBONE, generator_of, style_of
from tests.support.specs import SQUARE, WIDE, picture

PICTURE = picture(7)
STRUCTURES = (0.0, 0.25, 0.5, 0.75, 1.0)


def edit_of(structure: float, mask: Area | None = None) -> Edit:
    return Edit(ContentPicture("seven", PICTURE), structure, mask)


def styled(backbone: str, structure: float, strength: float = 1.0, seed: int = 1) -> ImageSpec:
    styling = Styling((style_of(backbone, 0),), strength=strength)
    return ImageSpec(None, seed, SQUARE, styling=styling, edit=edit_of(structure))


def draw(backbone: str, *specs: ImageSpec) -> list[np.ndarray]:
    return [drawing.image for drawing in generator_of(backbone).generate(specs)]


def reconstruction(backbone: str) -> np.ndarray:
    """What the image tokenizer alone makes of the picture."""
    model: Any = generator_of(backbone).backbone
    with torch.inference_mode():
        pixels = pixels_of(PICTURE, SQUARE, model.device)
        if backbone == "infinity":
            grids = model.feature_grids(model.schedules[SQUARE])
            feature = accumulated(quantise(model.tokenizer.encode(pixels), grids), grids[-1])[-1]
        else:
            tokens = model.tokenizer.quantise(model.tokenizer.encode(pixels), model.grids)
            feature = model.tokenizer.accumulated(tokens, model.grids)[-1]
        return model.decode(feature).images()[0]


@ON_EVERY_BACKBONE
@pytest.mark.parametrize(("structure", "strength"), [(1.0, 0.0), (0.0, 0.0), (0.0, 1e-12)])
def test_without_strength_a_restyled_picture_is_its_reconstruction_bit_for_bit(
    backbone: str, structure: float, strength: float
) -> None:
    """At 1e-12, too, which is too little to change a feature: every code is drawn then."""
    (image,) = draw(backbone, styled(backbone, structure, strength))
    assert np.array_equal(image, reconstruction(backbone))


@ON_EVERY_BACKBONE
def test_an_edit_is_the_same_alone_and_beside_others(backbone: str) -> None:
    area = Area(np.indices((64, 64))[1] < 24)
    specs = [
        styled(backbone, 0.5),
        ImageSpec("a red star", 1, SQUARE, styling=Styling((style_of(backbone, 1),))),
        ImageSpec("a red star", 3, SQUARE, edit=edit_of(0.4, area)),
        replace(styled(backbone, 0.0), prompt="a blue cat"),
    ]
    together = draw(backbone, *specs)
    assert len({image.tobytes() for image in together}) == len(specs)
    for spec, image in zip(specs, together, strict=True):
        assert np.array_equal(image, draw(backbone, spec)[0])


@ON_EVERY_BACKBONE
def test_more_structure_keeps_more_of_the_picture(backbone: str) -> None:
    whole = reconstruction(backbone).astype(int)
    prompts = [ImageSpec("a red star", 3, SQUARE, edit=edit_of(value)) for value in STRUCTURES]
    distances = [np.abs(image - whole).mean() for image in draw(backbone, *prompts)]
    # Pictures of random weights: while little is kept, one is as far from the picture as another.
    assert all(later < 1.1 * earlier for earlier, later in pairwise(distances))
    assert distances[0] > 10 > distances[-1]


@ON_EVERY_BACKBONE
def test_styles_of_one_picture_share_its_content_path(backbone: str) -> None:
    specs = [styled(backbone, 0.5, strength) for strength in (0.4, 0.7, 1.0)]
    timings = generator_of(backbone).generate(specs)[0].timings
    assert timings.num_content_paths_shared == 2
    assert timings.num_rows == 1 + 3  # without a prompt there is no guidance


def test_the_features_outside_a_mask_are_the_pictures_own() -> None:
    generator = generator_of("infinity")
    seen: list[torch.Tensor] = []

    class Watched(Infinity):
        def decode(self, features: torch.Tensor) -> DecodedImages:
            seen.append(features)
            return super().decode(features)

    assert isinstance(generator.backbone, Infinity)
    area = Area(np.indices((64, 64))[1] < 16)  # two of eight columns
    specs = [
        replace(styled("infinity", 0.0), edit=edit_of(0.0, area)),
        ImageSpec("a red star", 3, SQUARE, edit=edit_of(0.0, area)),
        ImageSpec("a red star", 3, SQUARE, edit=edit_of(1.0)),
    ]
    for spec in specs:
        Generator(Watched.sharing_weights(generator.backbone)).generate([spec])
    *edited, whole = torch.cat(seen)
    for features in edited:
        is_equal = (features == whole).all(0).all(0)  # of each column
        assert is_equal.tolist() == [False, False, True, True, True, True, True, True]


def test_strength_zero_and_no_style_are_plain_generation_from_the_pictures_codes() -> None:
    """The same codes forced by hand, step by step."""
    model = generator_of("infinity").backbone
    schedule = model.schedules[SQUARE]
    edit = edit_of(0.5)  # the first three of six steps
    (image,) = draw("infinity", ImageSpec("a red star", 3, SQUARE, edit=edit))
    with torch.inference_mode():
        codes = model.codes_of_tokens(generator_of("infinity").read_picture(PICTURE, SQUARE), schedule, 6)
        path = Path(model.encode_texts(["a red star"])[0], None, model.guidance_of_steps(model.guidance, 6))
        cache, noise = model.begin([path], schedule, 6), model.noise([3], schedule, 6)
        features = model.empty_features(cache)
        for step in range(1, 7):
            sampled = model.sample(cache, model.predict(cache, features, step), noise, step)
            features = model.accumulate(cache, features, codes[step - 1] if step <= 3 else sampled, step)
        assert np.array_equal(image, model.decode(features).images()[0])


def test_how_many_steps_are_kept_grows_with_structure_and_may_end_within_a_step() -> None:
    edit = edit_of(0.25)
    assert [PathEdit.of(edit, 3, 6).weight(step) for step in range(1, 7)] == [1, 1, 1, 0.75, 0, 0]
    assert PathEdit.of(replace(edit, structure=0.0), 3, 6).num_kept_steps == 3
    assert PathEdit.of(replace(edit, structure=1.0), 3, 6).num_kept_steps == 6


def test_coupled_bits_keep_the_models_distribution_and_flip_no_more_than_they_must() -> None:
    generator = torch.Generator().manual_seed(1)
    num = 200_000
    reference = torch.randn(1, num, 1, 2, generator=generator)
    logits = reference + 0.3 * torch.randn(1, num, 1, 2, generator=generator)
    of_picture = torch.rand(1, num, 1, generator=generator) < reference.softmax(-1)[..., 1]
    noise = draw_noise(generator, num).view(1, num, 1, 2)
    assert torch.equal(couple_bits(reference, reference, of_picture, noise), of_picture)
    certain = reference * 100  # probabilities of exactly 0 and 1
    assert torch.equal(couple_bits(certain, certain, of_picture, noise), of_picture)
    bits = couple_bits(logits, reference, of_picture, noise)
    p, p_reference = logits.softmax(-1)[..., 1], reference.softmax(-1)[..., 1]
    for low in (0.1, 0.3, 0.5, 0.7):
        near = (p > low) & (p < low + 0.2)
        assert float(bits[near].float().mean()) == pytest.approx(float(p[near].mean()), abs=0.01)
    assert float((bits != of_picture).float().mean()) == pytest.approx(
        float((p - p_reference).abs().mean()), abs=0.005
    )


def test_a_picture_is_read_once_for_each_size_while_it_is_cached() -> None:
    read: list[tuple[int, Size]] = []

    def reading(pixels: np.ndarray, size: Size) -> StyleTokens:
        read.append((int(pixels[0, 0, 0]), size))
        return StyleTokens(bytes(40))

    cache = PictureCache(reading, max_bytes=100)
    pictures = [ContentPicture(str(i), np.full((1, 1, 3), i, np.uint8)) for i in range(3)]
    assert set(cache.tokens_of([pictures[0], pictures[0], pictures[1]], SQUARE)) == set(pictures[:2])
    cache.tokens_of(pictures[:2], SQUARE)
    assert read == [(0, SQUARE), (1, SQUARE)]
    cache.tokens_of([pictures[2]], SQUARE)  # there is room for two: the one used first goes
    cache.tokens_of([pictures[1]], SQUARE)
    cache.tokens_of([pictures[0]], SQUARE)
    cache.tokens_of([pictures[0]], WIDE)
    assert read[2:] == [(2, SQUARE), (0, SQUARE), (0, WIDE)]
    assert PictureCache(reading, max_bytes=10).tokens_of([pictures[0]], SQUARE)  # too large to be kept


def test_the_ramp_of_a_mask_is_one_cell_wide_and_four_long_on_a_grid_of_64() -> None:
    columns = np.indices((1024, 1024))[1]
    weights = outside(Area(columns < 161), Scale(64, 64))  # ten cells, and a pixel of the next one
    assert weights[0, 30].tolist() == [0.0] * 12 + [0.25, 0.5, 0.75] + [1.0] * 49
