"""Recipes: every table and figure of the paper (arXiv 2507.04482v2), as arms to draw and rows to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.evaluation.paper.arms import (
    Aligned,
    Arm,
    ChannelStatistics,
    Components,
    Copy,
    Corrected,
    Plain,
    Swapped,
    of_model,
    varied,
)
from service.evaluation.paper.protocol import Protocol
from service.model.engine.generator import Generator
from service.model.engine.types import Method
from service.model.schedule import Size

ALPHAS = (0.2, 0.6, 1.0, 2.0, 5.0)  # the paper's table 3
_NEEDS_WORDS = "needs the words of every style: `words` in styles.json"


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    arm: Arm
    x: float | None = None  # where it is on the recipe's axis, if it has one


@dataclass(frozen=True, slots=True)
class Recipe:
    """One table or figure. Rows that are on no axis are the controls, which every table has."""

    name: str
    title: str
    about: str
    rows: tuple[Row, ...]
    axis: str = ""
    missing: str = ""  # why it cannot be made of this protocol

    @property
    def arms(self) -> list[Arm]:
        return [row.arm for row in self.rows]


CONTROLS = (
    Row("prompt only", Plain()),
    Row("the style image itself", Copy()),
)


def main_table(generator: Generator, protocol: Protocol, size: Size) -> Recipe:
    ours = of_model(generator)
    rows = [*CONTROLS, Row("PFB + SAC", ours)]
    if protocol.has_words:
        rows += [
            Row("prompt with the style's words only", Plain(worded=True)),
            Row("PFB + SAC, prompt with the style's words", varied(ours, f"{ours.name}-worded", worded=True)),
        ]
    rows += [
        Row("key feature replaced", of_model(generator, Method.REP)),
        Row("AdaIN of the key feature", ChannelStatistics(generator.key_step)),
        Row("style alignment, arXiv 2504.06144", Aligned(generator.key_step)),
    ]
    return Recipe(
        "main",
        "Main table (T1)",
        "The method, controls, and rivals that need no training, all drawn by the same model. The rival of "
        "arXiv 2504.06144 has two weights that the text at hand does not fix and that are this project's "
        "choice (rivals.py).",
        tuple(rows),
    )


def ablation(generator: Generator, protocol: Protocol, size: Size) -> Recipe:
    named = {
        "(b) replaced (REP)": Method.REP,
        "(c) blended (PFB)": Method.PFB,
        "(d) blended, attention corrected (PFB + SAC)": Method.PFB_SAC,
        "replaced, attention corrected (REP + SAC)": Method.REP_SAC,
    }
    plain, copied = CONTROLS
    rows = [
        Row("(a) neither: prompt only", plain.arm),
        *(Row(label, of_model(generator, method)) for label, method in named.items()),
        copied,
    ]
    return Recipe(
        "ablation", "Ablation (T2)", "What each part contributes, at the model's key step.", tuple(rows)
    )


def alpha(generator: Generator, protocol: Protocol, size: Size) -> Recipe:
    ours = of_model(generator)
    alphas = sorted({*ALPHAS, generator.alpha})
    rows = [
        Row(
            f"alpha {value:g}",
            ours if value == generator.alpha else varied(ours, f"alpha-{value:g}", alpha=value),
            value,
        )
        for value in alphas
    ]
    return Recipe(
        "alpha",
        "Alpha (T3)",
        f"PFB + SAC by alpha, the decay over singular components. The model's own is {generator.alpha:g}.",
        (*CONTROLS, *rows),
        "alpha",
    )


def components(generator: Generator, protocol: Protocol, size: Size) -> Recipe:
    style = generator.extract_style(protocol.styles[0].picture, size)
    num = style.num_channels
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64) if count < num] + [num]
    rows = [Row(f"top {count}", Components(count, generator.key_step), count) for count in counts]
    return Recipe(
        "components",
        "Top-k components",
        "The k largest singular components of F at the key step exchanged for the style's; the attention is "
        "left as it is. All of them: the feature is replaced.",
        (*CONTROLS, *rows),
        "components",
    )


def key_steps(generator: Generator, protocol: Protocol, size: Size) -> Recipe:
    ours, num_steps = of_model(generator), generator.num_steps(size)
    rows = [
        Row(
            f"key step {step}",
            ours if step == generator.key_step else varied(ours, f"key-step-{step}", key_step=step),
            step,
        )
        for step in range(1, num_steps)
    ]
    return Recipe(
        "key-step",
        "Key step",
        f"PFB + SAC with the style blended in after another step. The model's own is {generator.key_step}.",
        (*CONTROLS, *rows),
        "key step",
    )


def fine_steps(generator: Generator, protocol: Protocol, size: Size) -> Recipe:
    key, last = generator.key_step, generator.num_steps(size)
    rows = [Row("none (PFB)", of_model(generator, Method.PFB), key)]
    rows += [
        Row(f"{key + 1} to {step}", Corrected(f"corrected-to-{step}", step, key, generator.alpha), step)
        for step in range(key + 1, last)
    ]
    rows.append(Row(f"all, {key + 1} to {last} (PFB + SAC)", of_model(generator), last))
    return Recipe(
        "fine-steps",
        "Fine steps",
        "PFB with the attention corrected up to a step only.",
        (*CONTROLS, *rows),
        "attention corrected up to step",
    )


def swaps(generator: Generator, protocol: Protocol, size: Size) -> Recipe:
    steps = range(generator.num_steps(size) + 1)
    rows = [
        Row(f"{what}, {f'step {step}' if step else 'no step'}", _swapped(what, step), step)
        for what in ("content", "style")
        for step in steps
    ]
    return Recipe(
        "swaps",
        "Another prompt at one step (F2, F3)",
        "Prompts with the style's words, and no style feature. At one step alone the prompt names another "
        "content, or another style: what still is as the prompt says, and what as the other?",
        (*CONTROLS, *rows),
        "step with another prompt (0: none)",
        "" if protocol.has_words else _NEEDS_WORDS,
    )


def _swapped(what: str, step: int) -> Arm:
    return Swapped(what, step) if step else Plain(worded=True)


def words(generator: Generator, protocol: Protocol, size: Size) -> Recipe:
    ours = of_model(generator)
    rows = (
        Row("PFB + SAC, style from its image", ours),
        Row("PFB + SAC, style from its words", varied(ours, "from-words", from_words=True)),
        Row("prompt with the style's words only", Plain(worded=True)),
    )
    return Recipe(
        "words",
        "Style-aligned images from words (F14)",
        "The style feature of an image that is drawn from the style's words up to the key step.",
        (*CONTROLS, *rows),
        missing="" if protocol.has_words else _NEEDS_WORDS,
    )


def styles(generator: Generator, protocol: Protocol, size: Size) -> Recipe:
    ours = of_model(generator)
    rows = (
        Row("one style", ours),
        Row("two styles, half each", varied(ours, f"{ours.name}-mixed", num_styles=2)),
    )
    return Recipe(
        "styles",
        "Several styles",
        "One style, and a mixture of two in equal parts: how near is the image to the one and to the other?",
        (*CONTROLS, *rows),
    )


Maker = Callable[[Generator, Protocol, Size], Recipe]
RECIPES: dict[str, Maker] = {
    "main": main_table,
    "ablation": ablation,
    "alpha": alpha,
    "components": components,
    "key-step": key_steps,
    "fine-steps": fine_steps,
    "swaps": swaps,
    "words": words,
    "styles": styles,
}
SPECTRA = "spectra"  # draws nothing
NAMES = (*RECIPES, SPECTRA)


def chosen(
    names: Sequence[str], generator: Generator, protocol: Protocol, size: Size
) -> tuple[list[Recipe], bool]:
    """The recipes of these names, all by default, and whether spectra are among them.

    ValueError for an unknown name.
    """
    wanted = list(dict.fromkeys(names)) or list(NAMES)
    if unknown := [name for name in wanted if name not in NAMES]:
        raise ValueError(f"There is no recipe {unknown[0]}: the recipes are {', '.join(NAMES)}.")
    recipes = [RECIPES[name](generator, protocol, size) for name in wanted if name != SPECTRA]
    return recipes, SPECTRA in wanted


def arms_of(recipes: Sequence[Recipe]) -> list[Arm]:
    """Every arm that any of them shows, once."""
    by_name = {arm.name: arm for recipe in recipes if not recipe.missing for arm in recipe.arms}
    return list(by_name.values())
