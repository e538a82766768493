"""`atelier train`: makes the weights of nano, from packages to a model folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import Device, Threads, fail, settings_under, writable_folder
from service.cli.progress import shares

train = typer.Typer(help="Train the small model.", no_args_is_help=True)


class Stage(StrEnum):
    """In their order; a stage finds what the ones before it left in the run's folder."""

    FETCH = "fetch"
    RENDER = "render"
    TOKENIZER = "tokenizer"
    TRANSFORMER = "transformer"
    JUDGE = "judge"
    EXPORT = "export"
    THINGS = "things"


@train.command("nano")
def train_nano(
    run: Annotated[
        Path,
        typer.Option(callback=writable_folder, help="Folder of the pictures, checkpoints, log and sheets."),
    ] = Path("runs/nano"),
    out: Annotated[
        Path | None,
        typer.Option(callback=writable_folder, help="Model folder to write. By default RUN/model."),
    ] = None,
    stage: Annotated[
        list[Stage] | None, typer.Option(help="Run this stage only; repeat it for several. By default all.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Of image tokenizer and transformer; rates follow the time.")
    ] = 115.0,
    judge_minutes: Annotated[float, typer.Option(min=0.1, help="Of the judge of what it draws.")] = 20.0,
    num_images: Annotated[int, typer.Option(min=64, help="Pictures to render and train on.")] = 64_000,
    seed: Annotated[int, typer.Option(min=0, help="Of pictures, order and first weights.")] = 20261123,
    compile: Annotated[
        bool, typer.Option(help="Compile the transformer: a tenth faster; needs a C++ compiler.")
    ] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Make nano from nothing: fetch pictures with npm, render, train, judge, export, keep what is drawn well.

    A second run resumes.

    SIGTERM and Ctrl-C save first; the exit status is then 130.
    """
    settings = settings_under(device=device, threads=threads)
    from service.evaluation.judge import WEIGHTS as SHIPPED_JUDGE
    from service.evaluation.known_things import keep_what_is_recognised
    from service.evaluation.train_judge import train_judge
    from service.training.recipe import Recipe
    from service.training.train import Training, until_signalled
    from service.training.trainer import Session, Stopped, fastest

    model, judge = out or run / "model", run / "judge.safetensors"
    with shares() as report:
        session = Session(
            folder=run,
            compute=fastest(settings.device),
            compiles=compile,
            stopped=until_signalled(),
            report=report,
        )
        training = Training(session, Recipe(minutes=minutes, num_images=num_images, seed=seed))
        stages: dict[Stage, Callable[[], object]] = {
            Stage.FETCH: training.fetch,
            Stage.RENDER: training.render,
            Stage.TOKENIZER: training.tokenizer,
            Stage.TRANSFORMER: training.transformer,
            Stage.JUDGE: lambda: train_judge(
                replace(session, folder=run / "judge"),
                run,
                judge,
                judge_minutes,
                num_images // 2,
            ),
            Stage.EXPORT: lambda: training.export(model),
            Stage.THINGS: lambda: keep_what_is_recognised(model, judge if judge.exists() else SHIPPED_JUDGE),
        }
        try:
            for name, work in stages.items():
                if stage is None or name in stage:
                    work()
        except Stopped as stopped:
            fail(f"Stopped in the stage {stopped}; the same command resumes it.", 130)
        except (FileNotFoundError, RuntimeError) as error:
            fail(str(error))
    typer.echo(f"Done: `atelier serve --model {model}` serves it.", err=True)
