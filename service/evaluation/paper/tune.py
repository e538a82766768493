"""Search over key step, alpha, fine steps and strength on nano, by its judge: object kept against style.

The default was chosen on other pairs than these (recipe.py); here is what else there would have been.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.evaluation.evaluate import draws_nanos_world
from service.evaluation.intervals import Estimate
from service.evaluation.judge import load_judge
from service.evaluation.paper import document
from service.evaluation.paper.arms import Arm, Corrected, Styled
from service.evaluation.paper.clip import Clip
from service.evaluation.paper.document import Heading, Paragraph, Table
from service.evaluation.paper.figures import plot_front
from service.evaluation.paper.protocol import nano_protocol
from service.evaluation.paper.run import OnProgress, Setup, draw_arms
from service.evaluation.paper.summary import Grid, estimated_grid_mean, estimated_harmonic_mean, grids
from service.evaluation.references import search_references
from service.evaluation.stylisation import things_of
from service.evaluation.train_clip import WEIGHTS
from service.model.engine.generator import Generator
from service.model.engine.types import Method

ALPHAS = (0.05, 0.15, 0.4, 1.0)
STRENGTHS = (0.7, 1.0)
NUM_KEY_STEPS = 3  # the last ones that leave a step after them: earlier features of nano hold no shape
_SEED = 300  # of style images and prompts that no other report uses


@dataclass(frozen=True, slots=True)
class Choice:
    """One point of the search."""

    key_step: int
    alpha: float
    strength: float
    corrected_until: int  # the last step with corrected attention; the key step: none has it

    @property
    def name(self) -> str:
        return f"k{self.key_step}-a{self.alpha:g}-s{self.strength:g}-c{self.corrected_until}"


@dataclass(frozen=True, slots=True)
class Outcome:
    choice: Choice
    kept: Estimate
    style: Estimate
    harmonic: Estimate
    leaked: Estimate

    def beats(self, other: Outcome) -> bool:
        """At least as good in both, and better in one."""
        own, others = (self.kept.value, self.style.value), (other.kept.value, other.style.value)
        return own != others and own[0] >= others[0] and own[1] >= others[1]


@dataclass(frozen=True, slots=True)
class Tuning:
    outcomes: list[Outcome]
    default: Outcome
    num_images: int  # of each choice

    @property
    def front(self) -> list[Outcome]:
        """The outcomes that no other beats, from most style to least."""
        best = [one for one in self.outcomes if not any(other.beats(one) for other in self.outcomes)]
        return sorted(best, key=lambda outcome: -outcome.style.value)


def choices(generator: Generator) -> list[Choice]:
    """The grid; the model's own choice is in it."""
    last = generator.num_steps(generator.default_size)
    key_steps = sorted({*range(last - NUM_KEY_STEPS, last), generator.key_step})
    alphas = sorted({*ALPHAS, generator.alpha})
    return [
        Choice(key, alpha, strength, until)
        for key, alpha, strength in itertools.product(key_steps, alphas, STRENGTHS)
        for until in sorted({key, key + 1, last})
    ]


def default_of(generator: Generator) -> Choice:
    last = generator.num_steps(generator.default_size)
    return Choice(generator.key_step, generator.alpha, 1.0, last)


def arm_of(choice: Choice, last: int) -> Arm:
    """By the engine where it has the choice, else by the loop for analyses."""
    methods = {choice.key_step: Method.PFB, last: Method.PFB_SAC}
    if method := methods.get(choice.corrected_until):
        return Styled(choice.name, method, choice.key_step, choice.alpha, choice.strength)
    return Corrected(choice.name, choice.corrected_until, choice.key_step, choice.alpha, choice.strength)


def tune(
    generator: Generator,
    num_prompts: int,
    num_styles: int,
    folder: Path,
    on_progress: OnProgress,
    tried: Sequence[Choice] = (),
) -> Tuning:
    """Draw and judge the choices, all by default. ValueError for a model that the judge does not know."""
    if not draws_nanos_world(generator):
        raise ValueError(f"The judge knows only the world of nano; {generator.name} draws another.")
    size, protocol = (
        generator.default_size,
        nano_protocol(num_prompts, num_styles, _SEED, search_references(), things_of(generator)),
    )
    setup = Setup(generator, size, protocol, Clip(WEIGHTS), judge=load_judge())
    last, default = generator.num_steps(size), default_of(generator)
    tried = list(dict.fromkeys([*(tried or choices(generator)), default]))
    journal = draw_arms(setup, [arm_of(choice, last) for choice in tried], folder, on_progress)
    found = grids(journal.records)
    outcomes = {choice: _outcome(choice, found[choice.name]) for choice in tried}
    return Tuning(list(outcomes.values()), outcomes[default], num_prompts * num_styles)


def _outcome(choice: Choice, scores: Mapping[str, Grid]) -> Outcome:
    return Outcome(
        choice,
        kept=estimated_grid_mean(scores["kept"]),
        style=estimated_grid_mean(scores["judged_style"]),
        harmonic=estimated_harmonic_mean(scores["kept"], scores["judged_style"]),
        leaked=estimated_grid_mean(scores["leaked"]),
    )


def save_tuning(tuning: Tuning, folder: Path) -> str:
    """Writes report.html, report.md and the plot; returns the Markdown."""
    better = [outcome for outcome in tuning.outcomes if outcome.beats(tuning.default)]
    best = max(tuning.outcomes, key=lambda outcome: outcome.harmonic.value)
    title = "Key step, alpha, fine steps and strength of nano"
    place = (
        "The default is on the front: no other choice is better in one and as good in the other."
        if not better
        else f"{len(better)} of {len(tuning.outcomes)} choices beat the default in these figures."
    )
    return document.save(
        folder,
        title,
        [
            Heading(title, 1),
            Paragraph(
                f"{len(tuning.outcomes)} choices, {tuning.num_images} images each, read by nano's judge: "
                "is the prompt's object kept, and is the style (the mean of background and medium) "
                f"the style image's? Intervals of 95 % are of a bootstrap over prompts and styles. {place}"
            ),
            plot_front([(one.style, one.kept) for one in tuning.outcomes],
                       [(one.style, one.kept) for one in tuning.front],
                       (tuning.default.style, tuning.default.kept)),
            Heading("The Pareto front"),
            _table(tuning.front),
            Heading("The default, what beats it, and the best harmonic mean"),
            _table([tuning.default, *better, best]),
        ],
    )  # fmt: skip


def _table(outcomes: Sequence[Outcome]) -> Table:
    rows = tuple(
        (
            str(one.choice.key_step),
            f"{one.choice.alpha:g}",
            f"{one.choice.strength:g}",
            "none" if one.choice.corrected_until == one.choice.key_step
            else f"{one.choice.key_step + 1} to {one.choice.corrected_until}",
            *(_percent(value) for value in (one.kept, one.style, one.harmonic, one.leaked)),
        )
        for one in dict.fromkeys(outcomes)
    )  # fmt: skip
    head = ("key step", "alpha", "strength", "corrected steps", "object kept, %", "style, %", "harmonic, %",
            "leaked, %")  # fmt: skip
    return Table(head, rows)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"
