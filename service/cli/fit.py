"""`atelier fit`: what models need, and what fits on a GPU."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.options import ModelsDir, Precision, TextDevice, settings_under


def fit(
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of a known model, or the folder of one, at all of its sizes. By default all models."
        ),
    ] = None,
    precision: Precision = None,
    text_device: TextDevice = None,
    models_dir: ModelsDir = None,
) -> None:
    """Print the memory that models need and how many styled images fit on a GPU. Reads no weights."""
    settings = settings_under(precision=precision, text_device=text_device, models_dir=models_dir)
    from service.model.checkpoints import registry
    from service.model.checkpoints.memory_budget import memory_needs, table, table_of_defaults

    if model is None:
        known = (registry.find(name, settings.models_dir, needs_files=False) for name in registry.names())
        typer.echo(table_of_defaults(known, settings.choices))
    else:
        checkpoint = registry.find(model, settings.models_dir, needs_files=False)
        typer.echo(table(memory_needs(checkpoint, settings.choices)))
