"""Arms and interventions: exact where the engine says what is right, by their equations elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.evaluation.paper.arms import (
    Aligned,
    ChannelStatistics,
    Components,
    Copy,
    Corrected,
    Images,
    Plain,
    Studio,
    Styled,
    Swapped,
    of_model,
)
from service.evaluation.paper.interventions import NOTHING, largest
from service.evaluation.paper.protocol import Cell, Protocol, nano_protocol
from service.evaluation.paper.recipes import CONTROLS, NAMES, RECIPES, arms_of, chosen
from service.evaluation.paper.rivals import StyleAlignment, adain
from service.model.engine.types import Method
from tests.support.nano import nano, nano_things
from tests.support.tiny_switti import switti_generator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(nano(), nano().default_size)


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return list(nano_protocol(2, 2, things=nano_things()).cells())[::3]  # of two prompts, in two styles


def equal(first: Images, second: Images) -> list[bool]:
    return [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]


def alike(first: Images, second: Images) -> bool:
    """Up to bits that rounding decides; images of two prompts or two styles differ by tens of levels."""
    return all(np.abs(a.astype(int) - b).mean() < 2 for a, b in zip(first, second, strict=True))


def test_without_an_intervention_the_loop_draws_the_engines_images(studio: Studio, cells: list[Cell]) -> None:
    prompts, seeds = [cell.worded for cell in cells], [cell.seed for cell in cells]
    drawn = studio.decode(studio.draw_intervened(prompts, seeds, NOTHING))
    assert all(equal(drawn, Plain(worded=True).draw(studio, cells)))


def test_correcting_all_fine_steps_or_none_is_the_engines_method(studio: Studio, cells: list[Cell]) -> None:
    alpha, last = nano().alpha, nano().num_steps(studio.size)
    for key_step in (2, 4):
        corrected, blended = (
            Corrected("", until, key_step, alpha).draw(studio, cells) for until in (last, key_step)
        )
        engines = [
            Styled("", method, key_step, alpha).draw(studio, cells) for method in (Method.PFB_SAC, Method.PFB)
        ]
        assert all(equal(corrected, engines[0]))
        assert all(equal(blended, engines[1]))
    partly = Corrected("", 3, 2, alpha).draw(studio, cells)
    whole = Corrected("", last, 2, alpha).draw(studio, cells)
    assert not any(equal(partly, whole))


def test_exchanging_all_components_replaces_the_feature(studio: Studio, cells: list[Cell]) -> None:
    key_step = nano().key_step
    replaced = of_model(nano(), Method.REP).draw(studio, cells)
    assert alike(Components(32, key_step).draw(studio, cells), replaced)
    assert not alike(Components(1, key_step).draw(studio, cells), replaced)


def test_the_largest_components_of_all_are_the_feature() -> None:
    feature = torch.randn(6, 4, 4)
    assert torch.allclose(largest(feature, 6), feature, atol=1e-5)
    one = largest(feature, 1)
    assert torch.linalg.matrix_rank(one.flatten(1)) == 1
    assert (feature - one).norm() < feature.norm()


def test_a_swapped_prompt_moves_the_image_and_the_same_prompt_does_not(
    studio: Studio, cells: list[Cell]
) -> None:
    plain = Plain(worded=True).draw(studio, cells)
    for what in ("content", "style"):
        assert not alike(Swapped(what, 1).draw(studio, cells), plain)
    same = [
        Cell(cell.row, cell.column, cell.prompt, cell.style, cell.seed, cell.prompt, cell.style)
        for cell in cells
    ]
    assert alike(Swapped("content", 3).draw(studio, same), plain)


def test_adain_gives_channels_the_styles_mean_and_deviation() -> None:
    torch.manual_seed(0)
    own, style = torch.randn(2, 5, 6, 6), torch.randn(2, 5, 6, 6) * 3 + 1
    found = adain(own, style)
    assert torch.allclose(found.mean((2, 3)), style.mean((2, 3)), atol=1e-4)
    assert torch.allclose(found.std((2, 3)), style.std((2, 3)), rtol=1e-3)
    assert torch.allclose(adain(style, style), style, atol=1e-3)


def test_style_alignment_replaces_interpolates_and_then_only_injects() -> None:
    torch.manual_seed(0)
    styles = [torch.randn(2, 3, 4, 4) for _ in range(6)]
    alignment, features = StyleAlignment(styles, 3), torch.randn(4, 3, 4, 4)
    for step in (1, 2):
        assert torch.equal(alignment.after(features, step)[2:], styles[step - 1])
    assert torch.allclose(alignment.after(features, 3)[2:], (features[2:] + styles[2]) / 2, atol=1e-6)
    assert torch.equal(alignment.after(features, 4)[2:], features[2:])
    assert torch.equal(alignment.after(features, 4)[:2], styles[3])
    shares = [alignment.injected(step) for step in range(1, 10)]
    assert shares[:2] == shares[7:] == [0, 0]
    assert 1 > shares[2] > shares[3] > shares[4] == 0.5 > shares[5] > shares[6] > 0


def test_rivals_draw_on_every_backbone(studio: Studio, cells: list[Cell]) -> None:
    plain = Plain().draw(studio, cells)
    assert not any(equal(Aligned(4).draw(studio, cells), plain))
    assert not any(equal(ChannelStatistics(4).draw(studio, cells), plain))
    switti = switti_generator()
    other = Studio(switti, switti.default_size)
    for arm in (Aligned(switti.key_step), Corrected("", switti.num_steps(other.size), switti.key_step, 1.0)):
        images = arm.draw(other, cells)
        assert not any(equal(images, Plain().draw(other, cells)))
    engines = Styled("", Method.PFB_SAC, switti.key_step, 1.0).draw(other, cells)
    assert all(equal(images, engines))


def test_the_copy_control_is_the_style_image(studio: Studio, cells: list[Cell]) -> None:
    assert all(equal(Copy().draw(studio, cells), [cell.style.picture for cell in cells]))


def test_every_recipe_has_the_controls_and_names_files_once() -> None:
    recipes, has_spectra = chosen([], nano(), nano_protocol(2, 2, things=nano_things()), nano().default_size)
    assert has_spectra
    assert [recipe.name for recipe in recipes] == list(RECIPES)
    for recipe in recipes:
        assert {row.arm.name for row in CONTROLS} <= {arm.name for arm in recipe.arms}
        assert not recipe.missing
    names = [arm.name for arm in arms_of(recipes)]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for name in names)


def test_recipes_that_need_words_say_so_and_an_unknown_one_is_refused() -> None:
    wordless = nano_protocol(2, 2, things=nano_things())
    styles = tuple(type(style)(style.name, style.picture) for style in wordless.styles)
    recipes, _ = chosen([], nano(), Protocol(wordless.prompts, styles), nano().default_size)
    assert {recipe.name for recipe in recipes if recipe.missing} == {"swaps", "words"}
    assert "plain-worded" not in {arm.name for arm in arms_of(recipes)}
    with pytest.raises(ValueError, match=rf"no recipe table-9: the recipes are {', '.join(NAMES)}"):
        chosen(["table-9"], nano(), wordless, nano().default_size)
