"""What the commands share: flags, settings read from flags and environment, and the exit with a message."""

from __future__ import annotations

import tempfile
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


def writable_folder(folder: Path | None) -> Path | None:
    """The callback of an option: exit status 2, before any work, when the folder could not be written."""
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise typer.BadParameter(f"{folder} is a file; name a folder.")
        _require_writable(
            folder, next(path for path in (folder, *folder.absolute().parents) if path.exists())
        )
    return folder


def writable_file(path: Path | None) -> Path | None:
    """The same for a file, in a folder that exists. One that exists would be replaced."""
    if path is not None:
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a folder; name a file.")
        _require_writable(path, path.absolute().parent)
    return path


def _require_writable(path: Path, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):  # tried, as permissions do not say all: /proc, a full disk
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"{path} cannot be written: {folder} takes no new file ({error.strerror})."
        ) from error


def fail(message: str, exit_status: int = 1) -> NoReturn:
    """Print the message to stderr and exit with this status."""
    typer.echo(message, err=True)
    raise typer.Exit(exit_status)
