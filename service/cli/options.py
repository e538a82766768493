"""What the commands share: flags, settings read from flags and environment, and the exit with a message."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from service.settings import Settings

Model = Annotated[
    str | None, typer.Option(help="Name of a known model, or the folder of one; nano by default.")
]
ModelsDir = Annotated[Path | None, typer.Option(help="Folder of fetched and converted models.")]
Device = Annotated[str | None, typer.Option(help="auto (the default), cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of the model; one per core by default.")]
Precision = Annotated[
    str | None,
    typer.Option(help="Precision of the model: fp32, bf16, or auto (the default: bf16 on a GPU, else fp32)."),
]
TextPrecision = Annotated[
    str | None, typer.Option(help="Precision of the text encoder: auto (the default), fp32, bf16 or fp16.")
]
TextDevice = Annotated[
    str | None,
    typer.Option(
        help="Where the text encoder runs: beside the transformer (the default), on the cpu, or fetched to "
        "the GPU while it encodes prompts."
    ),
]
Decoding = Annotated[
    str | None,
    typer.Option(
        help="How images are decoded: whole, in strips, which take less memory, or auto (the default)."
    ),
]
Sizes = Annotated[
    str | None,
    typer.Option(help="Enabled sizes, separated by commas, the default size first; or auto, or all."),
]


def settings_under(**flags: object) -> Settings:
    """Settings from the environment, overridden by flags that are not None; torch, once imported, obeys them.

    ValueError names what is invalid.
    """
    from service.settings import prepare_torch, read_settings

    settings = read_settings(**flags)
    prepare_torch(settings)
    return settings


def fail(message: str) -> NoReturn:
    """Print the message to stderr and exit with status 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)
