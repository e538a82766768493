"""`atelier convert`: a model as one folder of safetensors; `extract-weights`: the tensors of a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import ModelsDir, settings_under, writable_file, writable_folder


def convert(
    model: Annotated[str, typer.Argument(help="Name of a known model, or the folder of one.")],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=writable_folder,
            help="Folder to write. By default a released model's own folder, which is then used first.",
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="bf16 (what its layers run in on a GPU), f16, f32, or stored to keep the files' own."
        ),
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


def extract_weights(
    file: Annotated[Path, typer.Argument(help="A .pth, .pt or .bin file that holds Python objects as well.")],
    out: Annotated[Path, typer.Argument(callback=writable_file, help="The safetensors file to write.")],
    entry: Annotated[
        str | None,
        typer.Option(help="Where the tensors are, such as trainer.gpt_fsdp; needed where several hold some."),
    ] = None,
) -> None:
    """Write the tensors of a pickled checkpoint as safetensors, running nothing that the file names."""
    from service.cli.progress import bars
    from service.model.checkpoints.extract_weights import extract_weights as run

    with bars() as on_progress:
        found, num_tensors = run(file, out, entry, on_progress)
    typer.echo(f"{out} is written: {num_tensors} tensors{f' of {found}' if found else ''}")
