"""What the commands have in common: flags of the same name, settings under them, an end with a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from service.settings import Settings

Model = Annotated[str | None, typer.Option(help="A known model or the folder of one; nano by default.")]
Device = Annotated[str | None, typer.Option(help="auto (the default), cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of the model; all by default.")]
Precision = Annotated[
    str | None, typer.Option(help="fp32 or bf16; auto (the default): bf16 on a GPU, fp32 on a CPU.")
]
TextPrecision = Annotated[
    str | None, typer.Option(help="Of the text encoder: auto (the default), fp32, bf16 or fp16.")
]
TextDevice = Annotated[
    str | None,
    typer.Option(help="Of the text encoder: beside (the default), cpu, or fetched while prompts are read."),
]
Decoding = Annotated[
    str | None, typer.Option(help="auto (the default), whole, or strips, which take less memory.")
]
Sizes = Annotated[
    str | None, typer.Option(help="Sizes to enable, with commas, the default size first; auto or all.")
]


def settings_under(**flags: object) -> Settings:
    """Settings from the environment, under a command's flags. Ends the command when they are wrong."""
    from service.settings import read_settings

    try:
        return read_settings(**flags)
    except ValueError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End the command with a sentence on stderr and exit status 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)
