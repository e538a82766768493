"""The report of a run: tables with intervals, plots, contact sheets, settings and cost."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from service.evaluation.intervals import Estimate
from service.evaluation.paper import document
from service.evaluation.paper.document import Block, Heading, Paragraph, Table
from service.evaluation.paper.figures import plot, plot_spectra
from service.evaluation.paper.published import Printed, published
from service.evaluation.paper.recipes import Recipe
from service.evaluation.paper.run import Run
from service.evaluation.paper.sheets import contact_sheet
from service.evaluation.paper.summary import (
    Grid,
    estimated_grid_mean,
    estimated_harmonic_mean,
    grids,
)

# By name: the column's head, and the one score or the two that it is made of.
Columns = dict[str, tuple[str, tuple[str, ...]]]
_CLIP: Columns = {
    "txt": ("S_txt", ("txt",)),
    "img": ("S_img", ("img",)),
    "harm": ("S_harm", ("txt", "img")),
    "worded_txt": ("S_txt, with the style's words", ("worded_txt",)),
    "worded_harm": ("S_harm, with the style's words", ("worded_txt", "img")),
    "caption_txt": ("leakage: to the style image's caption", ("caption_txt",)),
    "other_txt": ("shuffled: S_txt", ("other_txt",)),
    "other_img": ("shuffled: S_img", ("other_img",)),
    "dino": ("DINO to the style image", ("dino",)),
}
_JUDGED: Columns = {
    "kept": ("object kept", ("kept",)),
    "leaked": ("leaked", ("leaked",)),
    "judged_style": ("style", ("judged_style",)),
    "judged_harm": ("harmonic", ("kept", "judged_style")),
    "vanished": ("vanished", ("vanished",)),
    "other_kept": ("other prompt's object", ("other_kept",)),
    "other_style": ("other style", ("other_style",)),
}
_LEGEND = (
    "S_txt is CLIP's cosine of image and prompt, S_img of image and style image, S_harm the harmonic mean "
    "of the two means. Shuffled: the same images compared with another prompt and another style image; what "
    "S_txt and S_img exceed it by is due to the prompt and the style. The prompts themselves name no style; "
    "where styles have words, S_txt of prompt and words is beside it. Intervals of 95 % are of a bootstrap "
    "over prompts and styles."
)
_LEAKAGE = (
    "S_img rewards copying: the style image itself has 1. Leakage says how near an image is to what the "
    "style image shows, and the controls say what the metrics make of no style and of nothing but a copy."
)
_JUDGE = (
    "The judge is a classifier of nano's world. Kept: the prompt's object is seen; leaked: the style image's "
    "object is; style: the mean of background and medium being the style image's; harmonic: of kept "
    "and style; vanished: nothing stands out from the background."
)
_COST = (
    "Images were drawn in the engine's full batches of {} stylised images. On a GPU, memory is the most in "
    "use at once; on a CPU, what the process had afterwards."
)
_COST_HEAD = (
    "drawn",
    "images a batch",
    "drawing, s an image",
    "scoring, s an image",
    "drawing, MiB",
    "scoring, MiB",
)


class Report:
    """Blocks of one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._known: dict[tuple[str, str], Estimate] = {}

    def blocks(self) -> list[Block]:
        found: list[Block] = [*self._head()]
        for recipe in self.run.recipes:
            found += self._of_recipe(recipe)
        if self.run.spectra is not None:
            found += [
                Heading("Singular spectra"),
                Paragraph(
                    "Of the style images' features after each step: how fast the singular values fall, and "
                    "how much of the energy the first component has."
                ),
                plot_spectra(self.run.spectra),
            ]
        return [*found, *self._settings(), *self._cost()]

    @cached_property
    def _grids(self) -> dict[str, dict[str, Grid]]:
        return grids(self.run.records)

    def _estimate(self, arm: str, column: str) -> Estimate:
        if (arm, column) not in self._known:
            scores = [self._grids[arm][name] for name in {**_CLIP, **_JUDGED}[column][1]]
            estimate = estimated_grid_mean if len(scores) == 1 else estimated_harmonic_mean
            self._known[arm, column] = estimate(*scores)
        return self._known[arm, column]

    def _shown(self, columns: Columns) -> dict[str, str]:
        """Those whose scores are known, by name: their heads."""
        known = set(next(iter(self._grids.values())))
        return {name: head for name, (head, scores) in columns.items() if known.issuperset(scores)}

    def _head(self) -> list[Block]:
        setup = self.run.setup
        num = f"{len(setup.protocol.prompts)} prompts in {len(setup.protocol.styles)} styles"
        found: list[Block] = [
            Heading(f"The paper's tables on {setup.generator.name}", 1),
            Paragraph(f"{num}, {setup.size} pixels; CLIP is that of {setup.clip.name}. {_LEGEND}"),
            Paragraph(_LEAKAGE),
        ]
        return [*found, Paragraph(_JUDGE)] if setup.judge is not None else found

    def _of_recipe(self, recipe: Recipe) -> list[Block]:
        found: list[Block] = [Heading(recipe.title), Paragraph(recipe.about)]
        if recipe.missing:
            return [*found, Paragraph(f"Not drawn: it {recipe.missing}.")]
        by_clip, judged = self._shown(_CLIP), self._shown(_JUDGED)
        estimates = {
            arm.name: {name: self._estimate(arm.name, name) for name in (*by_clip, *judged)}
            for arm in recipe.arms
        }
        found.append(_table(recipe, by_clip, estimates))
        if judged:
            found += [Heading("By the judge", 3), _table(recipe, judged, estimates)]
        found.append(plot(recipe, estimates))
        found.append(contact_sheet(recipe, self.run.setup.protocol, self.run.folder))
        if printed := published().tables.get(recipe.name):
            found += _printed(printed)
        return found

    def _settings(self) -> list[Block]:
        setup = self.run.setup
        settings = {
            **setup.identity(),
            "guidance": setup.generator.guidance,
            "key step": setup.generator.key_step,
            "alpha": setup.generator.alpha,
            "images": len(self.run.records),
            "code": self.run.commit,
            "machine": self.run.machine,
        }
        about = (
            "Each image's seed, scores and file are in scores.jsonl. A prompt has one seed, in all styles "
            "and for all methods."
        )
        rows = tuple((name, str(value)) for name, value in settings.items())
        return [Heading("Settings"), Paragraph(about), Table(("setting", "value"), rows)]

    def _cost(self) -> list[Block]:
        by_arm: dict[str, list[Mapping[str, float]]] = {}
        for record in self.run.times:
            by_arm.setdefault(record["arm"], []).append(record)
        rows = tuple((name, *_cost_of(records)) for name, records in by_arm.items())
        total = sum(record["draw_seconds"] + record["score_seconds"] for record in self.run.times)
        minutes = f"{total / 60:.1f} minutes of drawing and scoring."
        about = f"{minutes} {_COST.format(self.run.setup.batch_size)}"
        return [Heading("Cost"), Paragraph(about), Table(_COST_HEAD, rows)]


def _cost_of(records: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    num = sum(record["num_images"] for record in records)
    seconds = [sum(record[name] for record in records) / num for name in ("draw_seconds", "score_seconds")]
    memory = [max(record[name] for record in records) / 2**20 for name in ("draw_bytes", "score_bytes")]
    return (
        f"{num / len(records):.1f}",
        *(f"{value:.4f}" for value in seconds),
        *(f"{value:.0f}" for value in memory),
    )


def _table(recipe: Recipe, columns: dict[str, str], estimates: Mapping[str, Mapping[str, Estimate]]) -> Table:
    rows = [(row.label, *(_number(estimates[row.arm.name][name]) for name in columns)) for row in recipe.rows]
    return Table((recipe.axis or "drawn", *columns.values()), tuple(rows))


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _printed(rows: Sequence[Printed]) -> list[Block]:
    def cell(value: float | None, digits: int = 3) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    table = tuple(
        (row.method, cell(row.txt), cell(row.img), cell(row.harm), cell(row.seconds, 2)) for row in rows
    )
    return [
        Heading("As published, not measured here", 3),
        Paragraph(f"Source: {published().source}. Empty: the number was not at hand."),
        Table(("method", "S_txt", "S_img", "S_harm", "seconds"), table),
    ]


def save_report(run: Run, say: Callable[[str], None] = lambda message: None) -> str:
    """Writes report.html, report.md and its figures into the run's folder; returns the Markdown."""
    say("report")
    title = f"The paper's tables on {run.setup.generator.name}"
    return document.save(run.folder, title, Report(run).blocks())


def require_plots() -> None:
    """ValueError before any work is done rather than after it, when there is nothing to plot with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "Plots need matplotlib, which is not installed: pip install 'atelier-style[evaluate]'."
        )
