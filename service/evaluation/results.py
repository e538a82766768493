"""What a run of `atelier evaluate` leaves in its folder."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service import __version__
from service.evaluation.evaluate import Evaluation
from service.evaluation.hardware import describe
from service.evaluation.plots import save_plots
from service.evaluation.tables import report
from service.model.engine.generator import Generator


def require_plots() -> None:
    """ValueError before any work is done rather than after it, when there is nothing to plot with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "Plots need matplotlib, which is not installed: pip install 'atelier-style[evaluate]'."
        )


def save_results(found: Evaluation, generator: Generator, folder: Path) -> str:
    """Writes report.md, numbers.json, the plots and the sheet; returns the report."""
    about = (
        f"atelier {__version__}, weights {generator.fingerprint}, {describe(generator.backbone.device)}; "
        f"{found.seconds / 60:.1f} minutes."
    )
    text = report(found, model=generator.name, about=about)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text)
    (folder / "numbers.json").write_text(json.dumps(_numbers(found), indent=1) + "\n")
    save_plots(found, folder)
    return text


def _numbers(found: Evaluation) -> dict[str, Any]:
    fidelity = {
        table: {name: asdict(each) for name, each in getattr(found.fidelity, table).items()}
        for table in ("psnr", "renders", "reconstructions", "prompts", "by_object", "by_medium")
    }
    styles = {
        table: [
            {
                "method": each.method,
                "key_step": each.key_step,
                "alpha": each.alpha,
                **{name: asdict(estimate) for name, estimate in score.estimates().items()},
            }
            for each, score in getattr(found, table).items()
        ]
        for table in ("headline", "ablation", "alphas")
    }
    palettes = {"palettes": asdict(found.palettes)}
    shortcuts = {"shortcuts": [trial.numbers(found.trials[0].score) for trial in found.trials]}
    return {"seeds": found.seeds, "num_pairs": found.num_pairs, **fidelity, **styles, **palettes, **shortcuts}
