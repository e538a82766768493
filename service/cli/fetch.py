"""`atelier fetch`: download a released model."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.options import ModelsDir, settings_under


def fetch(
    name: Annotated[
        str,
        typer.Argument(help="A released model, such as infinity-2b or switti-512; `atelier fit` lists them."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be downloaded, and stop.")
    ] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Download the files that a released model needs. Resumes, and verifies checksums."""
    settings = settings_under(models_dir=models_dir)
    from service.model.checkpoints.fetch import Hub
    from service.model.infinity.presets import chosen_revisions

    revisions = chosen_revisions(infinity=settings.infinity_revision, flan_t5=settings.flan_t5_revision)
    plan = Hub().plan(name, settings.models_dir, revisions)
    typer.echo(plan.table())
    if not dry_run:
        Hub().fetch(plan, typer.echo)
