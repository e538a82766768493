"""An Evaluation as plots and as a sheet of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.evaluation.evaluate import BASE, Evaluation
from service.evaluation.judge import ATTRIBUTES
from service.evaluation.stylisation import Configuration, Score
from service.model.engine.types import Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGER = 2
_LABEL = 200  # pixels left of a row for its name
_MARKERS = {Method.REP: "v", Method.REP_SAC: "^", Method.PFB: "s", Method.PFB_SAC: "o"}


def save_plots(found: Evaluation, folder: Path) -> list[Path]:
    """Four plots and the contact sheet; returns the files. ImportError without matplotlib."""
    from matplotlib.figure import Figure  # an optional dependency, and slow to import

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, plot in {
        "ablation": _ablation,
        "alpha": _alpha,
        "swaps": _swaps,
        "components": _components,
    }.items():
        figure: Figure = Figure(figsize=(8, 5), layout="constrained")
        plot(found, figure.subplots())
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=120)
    files.append(folder / "sheet.png")
    contact_sheet(found).save(files[-1])
    return files


def contact_sheet(found: Evaluation) -> Image.Image:
    """References in the first row, then what each configuration makes of them."""
    rows: list[tuple[str, NDArray[np.uint8]]] = [
        ("reference", np.stack([pair.picture for pair in found.examples]))
    ]
    rows += [
        (_row_name(picture), pictures) for picture, pictures in sorted(found.pictures.items(), key=_order)
    ]
    side = 64 * _LARGER
    sheet = Image.new("RGB", (_LABEL + side * len(found.examples), side * len(rows) + 20), "white")
    pencil = ImageDraw.Draw(sheet)
    for column, pair in enumerate(found.examples):
        pencil.text((_LABEL + column * side + 4, 4), pair.prompt, fill="black")
    for index, (name, pictures) in enumerate(rows):
        pencil.text((4, 20 + index * side + side // 2), name, fill="black")
        strip = np.concatenate(list(pictures), axis=1).repeat(_LARGER, axis=0).repeat(_LARGER, axis=1)
        sheet.paste(Image.fromarray(strip), (_LABEL, 20 + index * side))
    return sheet


def _row_name(configuration: Configuration) -> str:
    return "no style" if configuration == BASE else f"{configuration}, step {configuration.key_step}"


def _order(entry: tuple[Configuration, object]) -> int:
    return entry[0].key_step or 0


def _point(score: Score) -> tuple[float, float]:
    estimates = score.estimates()
    return 100 * estimates["style"].value, 100 * estimates["kept"].value


def _ablation(found: Evaluation, axes: Axes) -> None:
    """Style against object kept: to the top right is better."""
    for configuration, score in found.ablation.items():
        style, kept = _point(score)
        marker = "*" if configuration.method is None else _MARKERS[configuration.method]
        axes.plot(
            style, kept, marker, color=f"C{configuration.key_step or 0}", label=_row_name(configuration)
        )
    axes.legend(ncols=2)
    _name(axes, "Methods by key step", "style of the reference, %", "object of the prompt kept, %")


def _alpha(found: Evaluation, axes: Axes) -> None:
    for step in sorted({configuration.key_step or 0 for configuration in found.alphas}):
        alike = [
            (configuration.alpha, score.estimates())
            for configuration, score in found.alphas.items()
            if configuration.key_step == step
        ]
        for name, line in (("kept", "-"), ("style", "--"), ("harmonic", ":")):
            values = [100 * estimates[name].value for _, estimates in alike]
            axes.plot([alpha or 0 for alpha, _ in alike], values, f"o{line}", color=f"C{step}")
            axes.annotate(f"{name}, step {step}", (alike[-1][0] or 0, values[-1]))
    axes.set_xscale("log")
    _name(axes, "PFB+SAC by alpha", "alpha", "%")


def _swaps(found: Evaluation, axes: Axes) -> None:
    for index, name in enumerate(ATTRIBUTES):
        own = [100 * before[name].value for before, _ in found.swaps.values()]
        other = [100 * after[name].value for _, after in found.swaps.values()]
        axes.plot(list(found.swaps), own, "o-", color=f"C{index}", label=f"{name} of the prompt")
        axes.plot(list(found.swaps), other, "x--", color=f"C{index}", label=f"{name} of the other")
    axes.legend()
    _name(axes, "Another prompt at one step", "step (0: none)", "%")


def _components(found: Evaluation, axes: Axes) -> None:
    for name in ("kept", "leaked", "background", "medium", "colour"):
        values = [100 * score.estimates()[name].value for score in found.components.values()]
        axes.plot(list(found.components), values, "o-", label=name)
    axes.set_xscale("log", base=2)
    axes.legend()
    _name(axes, "Largest singular components of F replaced", "components", "%")


def _name(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
