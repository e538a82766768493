"""The command `atelier`. Each command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import logging
from typing import Any

import typer
from typer.core import TyperGroup

from service.cli.bench import bench
from service.cli.convert import convert, extract_weights
from service.cli.evaluate import evaluate
from service.cli.fetch import fetch
from service.cli.fit import fit
from service.cli.generate import generate
from service.cli.keys import keys
from service.cli.options import CommandFailed, fail
from service.cli.ray import ray
from service.cli.serve import serve
from service.cli.store import store
from service.cli.styles import styles
from service.cli.train import train
from service.cli.verify import verify
from service.cli.webhooks import webhooks
from service.logs import configure_logs


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """A ValueError is a sentence for the person: it is printed, and the exit status is 1 or its own."""
        try:
            return super().invoke(ctx)
        except ValueError as error:
            fail(str(error), error.exit_status if isinstance(error, CommandFailed) else 1)


cli = typer.Typer(
    cls=_Commands,
    help="Style-personalised images: upload a style once, draw any prompt in it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (serve, ray, generate, fetch, convert, extract_weights, fit, verify, bench):
    cli.command()(command)
cli.add_typer(evaluate, name="evaluate")
cli.add_typer(train, name="train")
cli.add_typer(styles, name="styles")
cli.add_typer(keys, name="keys")
cli.add_typer(store, name="store")
cli.add_typer(webhooks, name="webhooks")


def main() -> None:
    """The console script."""
    configure_logs("console", logging.WARNING)  # to stderr: results go to stdout
    cli(prog_name="atelier")


@cli.callback()
def atelier() -> None:
    """Each flag is also a setting: --data-dir is ATELIER_DATA_DIR in the environment. A flag wins."""


@cli.command()
def version() -> None:
    """Print the version."""
    from service import __version__

    typer.echo(__version__)
