"""`atelier convert`: rewrite a model as one folder of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import ModelsDir, settings_under


def convert(
    model: Annotated[str, typer.Argument(help="Name of a known model, or the folder of one.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write. By default a released model's own folder, which is then used first."
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="bf16 (what the reference runs in), f16, f32, or stored to keep the files' own."),
    ] = "bf16",
    models_dir: ModelsDir = None,
) -> None:
    """Rewrite a model as one folder of safetensors in the precision it runs in, so that it starts faster."""
    settings = settings_under(models_dir=models_dir)
    from service.cli.progress import bars
    from service.model.checkpoints import registry
    from service.model.checkpoints.convert import convert as run
    from service.model.checkpoints.convert import read_precision

    folder = out or registry.converted_folder(model, settings.models_dir)
    with bars() as on_progress:
        run(registry.find(model, settings.models_dir), folder, read_precision(dtype), on_progress)
    typer.echo(f"{folder} is written: use it as --model {out or model}")
