"""`atelier evaluate`: how well a model draws, and the paper's tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import Device, ModelsDir, Precision, Threads, settings_under, writable_folder

if TYPE_CHECKING:
    from service.evaluation.paper.protocol import Protocol
    from service.model.engine.generator import Generator

evaluate = typer.Typer(
    help="Measure how well a model draws, and make the paper's tables.", no_args_is_help=True
)

Model = Annotated[str | None, typer.Option(help="nano, or the folder of a model trained by its recipe.")]


@evaluate.command("nano")
def evaluate_nano(
    model: Model = None,
    out: Annotated[
        Path,
        typer.Option(callback=writable_folder, help="Folder for the report and the sheet of images."),
    ] = Path("evaluation"),
    images: Annotated[int, typer.Option(min=8, help="Images drawn from captions.")] = 1024,
    pairs: Annotated[int, typer.Option(min=6, help="Pairs of prompt and style image.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of captions and pairs, and of the first image.")] = 1,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Judge what nano draws: image tokenizer, prompts, styles, shortcuts. Takes minutes on two cores."""
    settings = settings_under(model=model, device=device, threads=threads)
    from service.evaluation.evaluate import evaluate as run
    from service.evaluation.judge import load_judge
    from service.evaluation.results import save_results
    from service.model.checkpoints import registry

    generator = registry.load(settings.model, settings.device, models_dir=settings.models_dir)
    found = run(generator, load_judge(), seed=seed, num_images=images, num_pairs=pairs, say=_print_on_stderr)
    typer.echo(save_results(found, generator, out))
    _print_on_stderr(f"The report, its numbers and the sheet of images are in {out}.")


@evaluate.command("paper")
def evaluate_paper(
    model: Annotated[
        str | None, typer.Option(help="A preset or a model folder, as of `atelier serve`.")
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(help="Folder of a CLIP or SigLIP for transformers. nano has a tiny one of its own."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="File with a prompt a line, or PartiPrompts' .tsv. nano has its own."),
    ] = None,
    styles: Annotated[
        Path | None,
        typer.Option(help="Folder of style images, with their words and captions in styles.json if known."),
    ] = None,
    dino: Annotated[Path | None, typer.Option(help="Folder of a DINO, for one more measure.")] = None,
    out: Annotated[
        Path,
        typer.Option(
            callback=writable_folder, help="Folder of the run. One that was interrupted is resumed in it."
        ),
    ] = Path("evaluation/paper"),
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="A table or figure to make; repeat it for several. By default all of them."),
    ] = None,
    num_prompts: Annotated[int | None, typer.Option(min=2, help="Only the first so many prompts.")] = None,
    num_styles: Annotated[int | None, typer.Option(min=2, help="Only the first so many styles.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT; by default the model's own.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first prompt; the next ones count on.")] = 1,
    device: Device = None,
    precision: Precision = None,
    threads: Threads = None,
    models_dir: ModelsDir = None,
) -> None:
    """Draw and measure every table and figure of the paper; writes report.html and report.md."""
    settings = settings_under(
        model=model, device=device, precision=precision, threads=threads, models_dir=models_dir
    )
    from service.cli.progress import images_of
    from service.evaluation.judge import load_judge
    from service.evaluation.paper.clip import Clip, PictureModel
    from service.evaluation.paper.report import require_plots, save_report
    from service.evaluation.paper.run import Setup, run_paper
    from service.evaluation.train_clip import WEIGHTS
    from service.model.checkpoints import registry
    from service.model.schedule import Size

    require_plots()
    generator = registry.load(
        settings.model, settings.device, models_dir=settings.models_dir, choices=settings.choices
    )
    protocol = _protocol(generator, prompts, styles, num_prompts, num_styles, seed)
    if clip is None and not protocol.is_of_nano:
        raise ValueError("--clip DIR is needed: a CLIP or SigLIP, such as openai/clip-vit-large-patch14.")
    where = generator.backbone.device
    setup = Setup(
        generator,
        Size.parse(size) if size else generator.default_size,
        protocol,
        Clip(clip or WEIGHTS, where),
        PictureModel(dino, where) if dino else None,
        load_judge() if protocol.is_of_nano else None,
    )
    with images_of("images") as on_progress:
        run = run_paper(setup, recipe or [], out, on_progress)
    save_report(run)
    typer.echo(f"{out}/report.html and {out}/report.md; every image's scores are in {out}/scores.jsonl")


@evaluate.command("serve")
def serve_preferences(
    folder: Annotated[Path, typer.Argument(help="Folder of a run of `atelier evaluate paper`.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 chooses one.")] = 8010,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="What to compare; repeat it. By default all that the main table draws."),
    ] = None,
) -> None:
    """Ask which of two images is better, without saying how either was drawn, in a page on 127.0.0.1."""
    from service.evaluation.paper.preference_page import serve
    from service.evaluation.paper.preferences import Poll

    poll = Poll(folder, arm or [])
    serve(poll, port, lambda url: typer.echo(f"{url}  (Ctrl-C ends it; votes are kept in {poll.file})"))


@evaluate.command("tune")
def tune_style(
    model: Model = None,
    out: Annotated[
        Path, typer.Option(callback=writable_folder, help="Folder of the search, which is resumed in it.")
    ] = Path("evaluation/tune"),
    num_prompts: Annotated[int, typer.Option(min=2, help="Prompts of nano's world.")] = 4,
    num_styles: Annotated[int, typer.Option(min=2, help="Style images of nano's world.")] = 8,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Search key step, alpha, fine steps and strength on nano: the Pareto front, and the default's place."""
    settings = settings_under(model=model, device=device, threads=threads)
    from service.cli.progress import images_of
    from service.evaluation.paper.report import require_plots
    from service.evaluation.paper.tune import save_tuning, tune
    from service.model.checkpoints import registry

    require_plots()
    generator = registry.load(settings.model, settings.device, models_dir=settings.models_dir)
    with images_of("images") as on_progress:
        tuning = tune(generator, num_prompts, num_styles, out, on_progress)
    typer.echo(save_tuning(tuning, out))
    _print_on_stderr(f"The report is {out}/report.html.")


def _protocol(
    generator: Generator,
    prompts: Path | None,
    styles: Path | None,
    num_prompts: int | None,
    num_styles: int | None,
    seed: int,
) -> Protocol:
    from service.evaluation.evaluate import draws_nanos_world
    from service.evaluation.paper.protocol import Protocol, nano_protocol, read_prompts, read_styles
    from service.evaluation.stylisation import things_of

    if prompts is None and styles is None and draws_nanos_world(generator):
        return nano_protocol(num_prompts or 8, num_styles or 8, seed, things=things_of(generator))
    if prompts is None or styles is None:
        raise ValueError(
            "--prompts FILE and --styles DIR are both needed; only nano can go without, and without both."
        )
    return Protocol(read_prompts(prompts)[:num_prompts], read_styles(styles)[:num_styles], seed)


def _print_on_stderr(message: str) -> None:
    typer.echo(message, err=True)
