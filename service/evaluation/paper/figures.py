"""Plots of a run by matplotlib as SVG, the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from service.evaluation.intervals import Estimate
from service.evaluation.paper.document import Picture
from service.evaluation.paper.recipes import Recipe, Row
from service.evaluation.paper.spectra import Spectra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Estimates = Mapping[str, Estimate]  # of one arm, by measure
_PAIRS = {"clip": ("img", "txt"), "judge": ("judged_style", "kept")}
_LINES = {"clip": ("txt", "img", "harm"), "judge": ("kept", "leaked", "judged_style", "judged_harm")}
_SWAPPED = {
    "clip": ("txt", "other_txt", "img", "other_img"),
    "judge": ("kept", "other_kept", "judged_style", "other_style"),
}
LABELS = {
    "txt": "S_txt",
    "img": "S_img",
    "harm": "S_harm",
    "other_txt": "S_txt of the other prompt",
    "other_img": "S_img of the other style",
    "kept": "object kept",
    "other_kept": "other prompt's object",
    "leaked": "leaked",
    "judged_style": "style",
    "other_style": "other style",
    "judged_harm": "harmonic",
}
_TITLES = {"clip": "CLIP", "judge": "the judge"}


def plot(recipe: Recipe, estimates: Mapping[str, Estimates]) -> Picture:
    """One panel of CLIP's measures, and one of the judge's where there is one."""
    kinds = [kind for kind in _PAIRS if _PAIRS[kind][0] in next(iter(estimates.values()))]
    draw = _curves if recipe.axis else _trade_off

    def fill(panels: Sequence[Axes]) -> None:
        for axes, kind in zip(panels, kinds, strict=True):
            draw(axes, recipe, estimates, kind)

    text = f"{recipe.title}: the numbers of the table as a plot"
    return Picture(f"{recipe.name}.svg", _svg(len(kinds), fill), text)


def _trade_off(axes: Axes, recipe: Recipe, estimates: Mapping[str, Estimates], kind: str) -> None:
    """Style against prompt: to the top right is better."""
    x_name, y_name = _PAIRS[kind]
    for index, row in enumerate(recipe.rows):
        x, y = (estimates[row.arm.name][name] for name in (x_name, y_name))
        axes.errorbar(
            x.value,
            y.value,
            xerr=[[x.value - x.low], [x.high - x.value]],
            yerr=[[y.value - y.low], [y.high - y.value]],
            fmt="o",
            color=f"C{index}",
            elinewidth=1,
            label=row.label,
        )
    axes.set_xlabel(LABELS[x_name])
    axes.set_ylabel(LABELS[y_name])
    axes.set_title(f"By {_TITLES[kind]}")
    if kind == "clip":
        axes.legend(fontsize=7)


def _curves(axes: Axes, recipe: Recipe, estimates: Mapping[str, Estimates], kind: str) -> None:
    for group, rows in series(recipe.rows).items():
        dashes = "--" if group == "style" else "-"
        names = (_SWAPPED if group else _LINES)[kind]
        for index, name in enumerate(names):
            found = [estimates[row.arm.name][name] for row in rows]
            x = [row.x or 0.0 for row in rows]
            label = f"{LABELS[name]}, {group} swapped" if group else LABELS[name]
            axes.plot(
                x, [estimate.value for estimate in found], f"o{dashes}", color=f"C{index}", label=label, ms=4
            )
            axes.fill_between(
                x,
                [estimate.low for estimate in found],
                [estimate.high for estimate in found],
                color=f"C{index}",
                alpha=0.12,
            )
    if recipe.name in ("alpha", "components"):
        axes.set_xscale("log", base=10 if recipe.name == "alpha" else 2)
    axes.set_xlabel(recipe.axis)
    axes.set_title(f"By {_TITLES[kind]}")
    axes.legend(fontsize=7)


def series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows that are on the axis; of prompt swaps in two groups, by what is swapped."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.x is not None:
            head = row.label.partition(",")[0]
            found.setdefault(head if head in ("content", "style") else "", []).append(row)
    return found


def plot_spectra(spectra: Spectra) -> Picture:
    def fill(panels: Sequence[Axes]) -> None:
        falling, shares = panels
        for index, (step, values) in enumerate(spectra.values.items()):
            mean = values.mean(0)
            falling.plot(range(1, len(mean) + 1), mean, "o-", color=f"C{index}", label=f"step {step}", ms=3)
        falling.set_xlabel("component")
        falling.set_ylabel("singular value, the first one 1")
        falling.legend(fontsize=7)
        shares.boxplot(
            list(spectra.dominance.values()), tick_labels=[str(step) for step in spectra.dominance]
        )
        shares.set_xlabel("step")
        shares.set_ylabel("the first component's share of the energy")
        shares.set_ylim(0, 1.05)

    return Picture("spectra.svg", _svg(2, fill), "Singular values of the style images' features by step")


def _svg(num_panels: int, fill: Callable[[Sequence[Axes]], None]) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure  # an optional dependency, and slow to import

    # A fixed salt and no date, or the same numbers would give other bytes each time.
    with matplotlib.rc_context({"svg.hashsalt": "atelier", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(5.4 * num_panels, 3.9), layout="constrained")
        panels = figure.subplots(1, num_panels, squeeze=False)[0]
        fill(panels)
        for axes in panels:
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        found = io.BytesIO()
        figure.savefig(found, format="svg", metadata={"Date": None})
    return found.getvalue()


Point = tuple[Estimate, Estimate]  # style, object kept


def plot_front(outcomes: Sequence[Point], front: Sequence[Point], default: Point) -> Picture:
    """Every outcome of a search, the Pareto front as a line, and where the default is."""

    def fill(panels: Sequence[Axes]) -> None:
        (axes,) = panels
        axes.plot(*_values(outcomes), "o", color="#9aa4b2", ms=4, label="tried")
        axes.plot(*_values(front), "o-", color="C0", ms=5, label="Pareto front")
        axes.plot(*_values([default]), "*", color="C3", ms=13, label="default")
        axes.set_xlabel("style")
        axes.set_ylabel("object kept")
        axes.legend()

    return Picture(
        "front.svg", _svg(1, fill), "Object kept against style: all choices, the front, the default"
    )


def _values(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x.value for x, _ in points], [y.value for _, y in points]
