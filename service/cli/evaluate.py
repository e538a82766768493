"""`atelier evaluate`: judge what nano draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import Device, Threads, settings_under, writable_folder


def evaluate(
    model: Annotated[
        str | None, typer.Option(help="nano, or the folder of a model trained by its recipe.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            callback=writable_folder, help="Folder for the report, the plots and the sheet of images."
        ),
    ] = Path("evaluation"),
    pairs: Annotated[int, typer.Option(min=6, help="Pairs of prompt and style image per seed.")] = 480,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, counted from 1.")] = 3,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Judge what nano draws: prompts, styles, the paper's ablations. Takes minutes on two cores."""
    settings = settings_under(model=model, device=device, threads=threads)
    from service.evaluation.evaluate import evaluate as run
    from service.evaluation.judge import load_judge
    from service.evaluation.results import require_plots, save_results
    from service.model.checkpoints import registry

    require_plots()
    generator = registry.load(settings.model, settings.device, models_dir=settings.models_dir)
    found = run(generator, load_judge(), seeds=range(1, seeds + 1), num_pairs=pairs, say=_print_on_stderr)
    typer.echo(save_results(found, generator, out))
    _print_on_stderr(f"The report, its numbers, plots and the sheet of images are in {out}.")


def _print_on_stderr(message: str) -> None:
    typer.echo(message, err=True)
