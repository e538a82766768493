"""What the commands share: flags, settings read from flags and environment, and the exit with a message."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from service.settings import Settings, prepare_torch, read_settings


def setting(name: str) -> Any:
    """The option of a flag that is also a setting, with that one's description and default."""
    field = Settings.model_fields[name]
    has_default = field.default_factory is None and field.default is not None
    default = f" Default: {field.default}." if has_default else ""
    return typer.Option(help=f"{field.description}{default}")


Model = Annotated[str | None, setting("model")]
ModelsDir = Annotated[Path | None, setting("models_dir")]
Device = Annotated[str | None, setting("device")]
Threads = Annotated[int | None, setting("threads")]
Precision = Annotated[str | None, setting("precision")]
TextPrecision = Annotated[str | None, setting("text_precision")]
TextDevice = Annotated[str | None, setting("text_device")]
Decoding = Annotated[str | None, setting("decoding")]
Sizes = Annotated[str | None, setting("sizes")]


def settings_under(**flags: object) -> Settings:
    """Settings from the environment, overridden by flags that are not None; torch, once imported, obeys them.

    ValueError names what is invalid.
    """
    settings = read_settings(**flags)
    prepare_torch(settings)
    return settings


class CommandFailed(ValueError):
    """A sentence for the person, and an exit status other than 1 for scripts."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def fail(message: str, exit_status: int = 1) -> NoReturn:
    """Print the message to stderr and exit with this status."""
    typer.echo(message, err=True)
    raise typer.Exit(exit_status)
