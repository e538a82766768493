"""How a command ends when it cannot do what it was asked."""

from __future__ import annotations

from typing import NoReturn

import typer


def fail(message: str) -> NoReturn:
    """End the command with a sentence on stderr and exit status 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)
