"""`atelier ray`: the REST API on a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import options
from service.cli.options import fail, setting, settings_under


def ray(
    host: Annotated[str | None, setting("host")] = None,
    port: Annotated[int | None, setting("port")] = None,
    model: options.Model = None,
    device: options.Device = None,
    threads: options.Threads = None,
    redis_url: Annotated[str | None, setting("redis_url")] = None,
    min_replicas: Annotated[int, typer.Option(min=1, help="Replicas that there are always.")] = 1,
    max_replicas: Annotated[int, typer.Option(min=1, help="Most replicas, when work waits.")] = 1,
    queued_seconds: Annotated[
        float, typer.Option(min=0.001, help="A replica more when more work waits for each.")
    ] = 5.0,
) -> None:
    """Serve the REST API on Ray: the cluster of RAY_ADDRESS, or one of this machine alone.

    Settings are read here, and are those of all replicas.
    """
    given = locals()
    settings = settings_under(**{name: given[name] for name in SETTINGS})
    try:
        from ray import serve

        from service.ray_serve import RayOptions, application
    except ModuleNotFoundError:
        fail("atelier ray needs Ray: pip install 'atelier-style[ray]'.")
    ray_options = RayOptions(
        min_replicas=min_replicas, max_replicas=max_replicas, queued_seconds=queued_seconds
    )
    served = application(settings, ray_options)
    serve.start(http_options={"host": settings.host, "port": settings.port})
    serve.run(served, name="atelier", blocking=True)


SETTINGS = ("host", "port", "model", "device", "threads", "redis_url")
