"""`atelier serve`: the REST API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import (
    Decoding,
    Device,
    Model,
    Precision,
    Sizes,
    TextDevice,
    TextPrecision,
    Threads,
    settings_under,
)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 8000 by default, 0 for any free port.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the embedded style store.")] = None,
    model: Model = None,
    device: Device = None,
    threads: Threads = None,
    precision: Precision = None,
    text_precision: TextPrecision = None,
    text_device: TextDevice = None,
    decoding: Decoding = None,
    sizes: Sizes = None,
    redis_url: Annotated[
        str | None, typer.Option(help="URL of a Redis or Valkey to use in place of the embedded store.")
    ] = None,
    api_keys_file: Annotated[
        Path | None,
        typer.Option(help="File of API keys. Without keys the service listens on loopback only."),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console (the default) or json.")] = None,
) -> None:
    """Serve the REST API until SIGTERM or Ctrl-C, then finish the requests already accepted."""
    settings = settings_under(**locals())  # each flag is a setting
    from service.cli import progress
    from service.server import run_server

    raise typer.Exit(run_server(settings, progress=progress))
