"""`atelier fetch`: download a released model."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.options import ModelsDir, fail, settings_under, writable_folder


def fetch(
    name: Annotated[
        str,
        typer.Argument(help="A released model, such as infinity-2b or switti-512; `atelier fit` lists them."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be downloaded, and stop.")
    ] = False,
    revision: Annotated[
        list[str] | None,
        typer.Option(help="REPOSITORY=COMMIT (or a branch) in place of the preset's; repeat it for several."),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Take files that the hub has changed since the first fetch."),
    ] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Download the files that a released model needs. Resumes, verifies checksums, and writes them down."""
    settings = settings_under(models_dir=models_dir)
    if not dry_run:
        writable_folder(settings.models_dir)
    from service.model.checkpoints.fetch import Hub
    from service.model.infinity.presets import chosen_revisions

    revisions = chosen_revisions(infinity=settings.infinity_revision, flan_t5=settings.flan_t5_revision)
    for choice in revision or ():
        repository, has_revision, chosen = choice.partition("=")
        if not (has_revision and chosen):
            fail(f"--revision must be REPOSITORY=REVISION, not {choice!r}")
        revisions[repository] = chosen
    plan = Hub().plan(name, settings.models_dir, revisions)
    typer.echo(plan.table())
    if not dry_run:
        Hub().fetch(plan, typer.echo, accepts_changes=accept_changes)
