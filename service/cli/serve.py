"""`atelier serve`: the REST API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli import options
from service.cli.options import setting, settings_under


def serve(
    host: Annotated[str | None, setting("host")] = None,
    port: Annotated[int | None, setting("port")] = None,
    data_dir: Annotated[Path | None, setting("data_dir")] = None,
    model: options.Model = None,
    device: options.Device = None,
    threads: options.Threads = None,
    precision: options.Precision = None,
    text_precision: options.TextPrecision = None,
    text_device: options.TextDevice = None,
    decoding: options.Decoding = None,
    sizes: options.Sizes = None,
    redis_url: Annotated[str | None, setting("redis_url")] = None,
    api_keys_file: Annotated[Path | None, setting("api_keys_file")] = None,
    log_format: Annotated[str | None, setting("log_format")] = None,
) -> None:
    """Serve the REST API until SIGTERM or Ctrl-C, then finish the requests already accepted."""
    settings = settings_under(**locals())  # every flag is a setting
    from service.cli import progress
    from service.server import run_server

    raise typer.Exit(run_server(settings, progress=progress))
