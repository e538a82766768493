"""The command `atelier`. Commands import what they need themselves, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.bench import bench
from service.cli.options import (
    Decoding,
    Device,
    Model,
    Precision,
    Sizes,
    TextDevice,
    TextPrecision,
    Threads,
    fail,
    settings_under,
)

cli = typer.Typer(
    help="Style-personalised images: upload a style once, draw any prompt in it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="API keys.", no_args_is_help=True)
cli.add_typer(keys, name="keys")
cli.command()(bench)


def main() -> None:
    """The console script."""
    cli(prog_name="atelier")


def _say_on_stderr(message: str) -> None:
    typer.echo(message, err=True)


@cli.callback()
def atelier() -> None:
    """Each flag is also a setting: --data-dir is ATELIER_DATA_DIR in the environment. A flag wins."""


@cli.command()
def version() -> None:
    """Print the version."""
    from service import __version__

    typer.echo(__version__)


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Of the key, for the log.")],
    tenant: Annotated[
        str | None,
        typer.Option(
            help='Whose styles it sees: the name, by default. "" has the styles from before there were keys.'
        ),
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Most requests a minute.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Most images a minute.")] = None,
) -> None:
    """Make an API key, and the line that lets it in. The key itself is kept nowhere."""
    from service.access.api_key import Limits, new_secret, write_line

    secret = new_secret()
    try:
        line = write_line(secret, name, tenant=tenant, limits=Limits(requests, images))
    except ValueError as error:
        fail(f"This key cannot be made: {error}.")
    typer.echo(f"The API key, shown this once:\n\n  {secret}\n")
    typer.echo(f"The line for the file that ATELIER_API_KEYS_FILE names, read at the next start:\n\n  {line}")


@cli.command()
def verify(
    folders: Annotated[list[Path], typer.Argument(help="Folders laid out like tests/golden/*_tiny.")],
    precision: Annotated[
        str, typer.Option(help="bf16: tell instead how far it agrees with fp32 on these folders.")
    ] = "fp32",
) -> None:
    """Check this build against the reference's numbers; exit status 1 on any difference."""
    if precision not in ("fp32", "bf16"):
        fail(f"--precision must be fp32 or bf16, not {precision!r}")
    _verify_full(folders) if precision == "fp32" else _verify_half(folders)


def _verify_full(folders: list[Path]) -> None:
    from service.evaluation.verify import row_tile_line, table, verify

    num_missed = num_checks = 0
    for folder in folders:
        try:
            checks = verify(folder)
        except ValueError as error:
            fail(str(error))
        typer.echo(f"{folder}\n{table(checks)}\n{row_tile_line(folder)}\n")
        num_checks += len(checks)
        num_missed += sum(not check.passed for check in checks)
    if num_missed:
        fail(f"{num_missed} of {num_checks} tensors differ from the reference.")
    typer.echo(f"All {num_checks} tensors agree with the reference.")


def _verify_half(folders: list[Path]) -> None:
    from service.evaluation.verify_half import FLOORS, verify_half

    num_missed = 0
    for folder in folders:
        try:
            found = verify_half(folder)
        except ValueError as error:
            fail(str(error))
        typer.echo(f"{folder}\n{found.table()}\n")
        num_missed += not found.passed
    if num_missed:
        fail(f"bf16 is further from fp32 than {FLOORS} on {num_missed} of {len(folders)} folders.")
    typer.echo(f"bf16 agrees with fp32: {FLOORS}.")


@cli.command()
def fetch(
    name: Annotated[str, typer.Argument(help="infinity-2b, infinity-8b, infinity-8b-512 or infinity-125m.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    models_dir: Annotated[Path | None, typer.Option(help="Folder of the models.")] = None,
) -> None:
    """Download a released model: the files it needs and no others, resumed and checked."""
    settings = settings_under(models_dir=models_dir)
    from service.model.checkpoints.fetch import Hub
    from service.model.infinity.presets import chosen_revisions

    revisions = chosen_revisions(infinity=settings.infinity_revision, flan_t5=settings.flan_t5_revision)
    try:
        plan = Hub().plan(name, settings.models_dir, revisions)
        typer.echo(plan.table())
        if not dry_run:
            Hub().fetch(plan, typer.echo)
    except ValueError as error:
        fail(str(error))


@cli.command()
def convert(
    model: Annotated[str, typer.Argument(help="A known model, or the folder of one.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; a released model's own by default, which is then preferred."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="bf16 (as the reference runs it), f16, f32, or stored to keep it.")
    ] = "bf16",
    models_dir: Annotated[Path | None, typer.Option(help="Folder of the models.")] = None,
) -> None:
    """Rewrite a model as one folder of safetensors, in the precision it runs in."""
    settings = settings_under(models_dir=models_dir)
    from service.cli.progress import bars
    from service.model.checkpoints import registry as presets
    from service.model.checkpoints.convert import convert as run
    from service.model.checkpoints.convert import read_precision

    try:
        folder = out or presets.converted_folder(model, settings.models_dir)
        with bars() as on_progress:
            run(presets.find(model, settings.models_dir), folder, read_precision(dtype), on_progress)
    except ValueError as error:
        fail(str(error))
    typer.echo(f"{folder} is written: use it as --model {out or model}")


@cli.command()
def fit(
    model: Annotated[
        str | None, typer.Option(help="A known model or the folder of one, at every size; all by default.")
    ] = None,
    precision: Precision = None,
    text_device: TextDevice = None,
    models_dir: Annotated[Path | None, typer.Option(help="Folder of the models.")] = None,
) -> None:
    """Tell what models take, and how many stylised images at once fit on a GPU; no weights are read."""
    settings = settings_under(precision=precision, text_device=text_device, models_dir=models_dir)
    from service.model.checkpoints import registry
    from service.model.checkpoints.memory_budget import memory_needs, table, table_of_defaults

    try:
        if model is None:
            known = (registry.find(name, settings.models_dir, needs_files=False) for name in registry.names())
            typer.echo(table_of_defaults(known, settings.choices))
        else:
            checkpoint = registry.find(model, settings.models_dir, needs_files=False)
            typer.echo(table(memory_needs(checkpoint, settings.choices)))
    except ValueError as error:
        fail(str(error))


@cli.command()
def evaluate(
    model: Annotated[
        str | None, typer.Option(help="nano, or the folder of a model trained by its recipe.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report, the plots and the sheet.")] = Path(
        "evaluation"
    ),
    pairs: Annotated[int, typer.Option(min=6, help="Pairs of prompt and reference a seed.")] = 480,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 1 on.")] = 3,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Judge what nano draws: prompts, styles, and the paper's ablations; minutes on two cores."""
    from service.settings import prepare_torch

    settings = settings_under(model=model, device=device, threads=threads)
    prepare_torch(settings)
    from service.evaluation.evaluate import evaluate as run
    from service.evaluation.judge import load_judge
    from service.evaluation.results import require_plots, save_results
    from service.model.checkpoints import registry as presets

    try:
        require_plots()
        generator = presets.load(settings.model, settings.device, models_dir=settings.models_dir)
        found = run(generator, load_judge(), seeds=range(1, seeds + 1), num_pairs=pairs, say=_say_on_stderr)
    except ValueError as error:
        fail(str(error))
    typer.echo(save_results(found, generator, out))
    _say_on_stderr(f"Report, numbers, plots and the sheet of pictures are in {out}.")


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 8000 by default, 0 for a free one.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the embedded style store.")] = None,
    model: Model = None,
    device: Device = None,
    threads: Threads = None,
    precision: Precision = None,
    text_precision: TextPrecision = None,
    text_device: TextDevice = None,
    decoding: Decoding = None,
    sizes: Sizes = None,
    redis_url: Annotated[
        str | None, typer.Option(help="A Redis to use instead of the embedded store.")
    ] = None,
    api_keys_file: Annotated[
        Path | None, typer.Option(help="File of API keys; without any, nobody else can call.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console (the default) or json.")] = None,
) -> None:
    """Serve the REST API until SIGTERM or Ctrl-C; work that was accepted is finished first."""
    from service.settings import prepare_torch

    settings = settings_under(
        host=host,
        port=port,
        data_dir=data_dir,
        model=model,
        device=device,
        threads=threads,
        precision=precision,
        text_precision=text_precision,
        text_device=text_device,
        decoding=decoding,
        sizes=sizes,
        redis_url=redis_url,
        api_keys_file=api_keys_file,
        log_format=log_format,
    )
    prepare_torch(settings)
    from service.cli import progress
    from service.server import run_server

    raise typer.Exit(run_server(settings, progress=progress))
