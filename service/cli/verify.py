"""`atelier verify`: compare this build with tensors recorded from the reference implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import ModelsDir, fail, settings_under


def verify(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders laid out like tests/golden/*_tiny.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="bf16: report instead how closely bf16 agrees with fp32 on these folders. With --model, "
            "bf16 or fp8 on that checkpoint."
        ),
    ] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, or cuda or cuda:1 for a GPU.")] = "cpu",
    fused: Annotated[
        bool, typer.Option("--fused", help="Attend by the fused kernels, as on a GPU, on a CPU as well.")
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option("--compiled", help="Compile what a GPU runs compiled. Takes minutes the first time."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="With --record, --against or --precision: the checkpoint, by name or folder."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write what this machine makes of the checkpoint to this file.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Compare the checkpoint with a recording, such as of upstream's own code."),
    ] = None,
    models_dir: ModelsDir = None,
) -> None:
    """Compare this build with numbers of the reference; exit status 1 if any differs."""
    if record is not None or against is not None:
        of_folders = folders or precision != "fp32" or compiled
        if model is None or of_folders or (record is not None and against is not None):
            fail(
                "Give --model with one of --record and --against, and neither folders nor --precision nor "
                "--compiled."
            )
        _verify_checkpoint(model, device, fused, record, against, models_dir)
        return
    if model is not None and precision != "fp32":
        if folders or device != "cpu" or fused or compiled:
            fail("--model with --precision compares with fp32 on the CPU: leave out all else.")
        _verify_precision(model, precision, models_dir)
        return
    if not folders or model is not None:
        fail(
            "Give folders laid out like tests/golden/*_tiny, or --model with --record, --against or "
            "--precision."
        )
    if precision not in ("fp32", "bf16"):
        fail(f"--precision must be fp32 or bf16, not {precision!r}")
    if precision == "bf16" and (device != "cpu" or fused or compiled):
        fail("--precision bf16 compares with fp32 on the CPU: leave out --device, --fused and --compiled")
    _verify_full(folders, device, fused, compiled) if precision == "fp32" else _verify_half(folders)


def _verify_checkpoint(
    model: str, device: str, fused: bool, record: Path | None, against: Path | None, models_dir: Path | None
) -> None:
    settings = settings_under(models_dir=models_dir)
    from service import __version__
    from service.evaluation import verify_recording as recordings
    from service.evaluation.verify import table
    from service.model.checkpoints import registry

    recording = recordings.read_recording(against) if against else None  # fails before the model is read
    generator = registry.load(model, device, models_dir=settings.models_dir)
    if fused:
        recordings.use_fused_kernels(generator)
    if record is not None:
        recordings.write_recording(record, recordings.record(generator, f"atelier {__version__}"))
        typer.echo(f"{record} is written: what {generator.name} is on this machine")
    if recording is not None:
        checks = recordings.compare_with(generator, recording)
        typer.echo(f"{against}, made by {recording.made_by}, of {recording.size}\n{table(checks)}")
        if not all(check.passed for check in checks):
            fail(f"{generator.name} differs from the recording.")
        typer.echo(f"{generator.name} agrees with the recording.")


def _verify_precision(model: str, precision: str, models_dir: Path | None) -> None:
    from service.evaluation.verify_half import agreement_on

    if precision not in ("bf16", "fp8"):
        fail(f"--precision with --model must be bf16 or fp8, not {precision!r}")
    settings = settings_under(models_dir=models_dir, precision=precision)
    try:
        found = agreement_on(model, settings.precision, settings.models_dir)
    except ValueError as error:
        fail(str(error))
    typer.echo(f"{model} in {precision} beside itself in fp32\n{found.table()}")


def _verify_full(folders: list[Path], device: str, fused: bool, compiled: bool) -> None:
    from service.evaluation.checks import Form
    from service.evaluation.verify import row_tile_line, table, verify
    from service.model.checkpoints.registry import device_of, require_compiler

    if compiled:
        try:
            require_compiler()
        except ValueError as error:
            fail(str(error))
    form = Form(device_of(device), fused or compiled, "inductor" if compiled else None)
    num_missed = num_checks = 0
    for folder in folders:
        checks = verify(folder, form)
        typer.echo(f"{folder}\n{table(checks)}\n")
        if form.device.type == "cpu" and not form.is_fused:
            typer.echo(f"{row_tile_line(folder)}\n")
        num_checks += len(checks)
        num_missed += sum(not check.passed for check in checks)
    if num_missed:
        fail(f"{num_missed} of {num_checks} tensors differ from the reference.")
    typer.echo(f"All {num_checks} tensors agree with the reference.")


def _verify_half(folders: list[Path]) -> None:
    from service.evaluation.verify_half import FLOORS, verify_half

    num_missed = 0
    for folder in folders:
        found = verify_half(folder)
        typer.echo(f"{folder}\n{found.table()}\n")
        num_missed += not found.passed
    if num_missed:
        fail(f"bf16 is further from fp32 than {FLOORS} on {num_missed} of {len(folders)} folders.")
    typer.echo(f"bf16 agrees with fp32: {FLOORS}.")
