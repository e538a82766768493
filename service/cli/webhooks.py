"""`atelier webhooks`: the webhooks that were given up, and the secrets that sign them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.cli.options import fail, setting, settings_under

if TYPE_CHECKING:
    from service.settings import Settings
    from service.webhooks.deliveries import Deliveries

T = TypeVar("T")
webhooks = typer.Typer(help="Webhooks of jobs.", no_args_is_help=True)
DataDir = Annotated[Path | None, setting("data_dir")]
RedisUrl = Annotated[str | None, setting("redis_url")]


@webhooks.command("list")
def list_dead(data_dir: DataDir = None, redis_url: RedisUrl = None) -> None:
    """Show those that were given up, with the reason: job, URL, attempts, reason, with tabs between."""
    settings = settings_under(data_dir=data_dir, redis_url=redis_url)
    for delivery in _run(settings, lambda deliveries: deliveries.dead()):
        typer.echo(f"{delivery.job_id}\t{delivery.target.url}\t{delivery.attempts}\t{delivery.failure or ''}")


@webhooks.command()
def replay(
    jobs: Annotated[list[str] | None, typer.Argument(help="IDs of jobs.")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="All that were given up.")] = False,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Send webhooks that were given up again: the running service does, or the next one that is started."""
    if bool(jobs) == all_of_them:
        raise ValueError("Name jobs of `atelier webhooks list`, or give --all.")
    settings = settings_under(data_dir=data_dir, redis_url=redis_url)

    async def run(deliveries: Deliveries) -> list[str]:
        chosen = jobs or [delivery.job_id for delivery in await deliveries.dead()]
        return [job_id for job_id in chosen if not await deliveries.replay(job_id)]

    missing = _run(settings, run)
    if missing:
        fail(f"Not among those that were given up: {', '.join(missing)}. `atelier webhooks list` shows them.")
    typer.echo("They are sent again.")


@webhooks.command()
def secret(
    key: Annotated[str, typer.Argument(help="Name of the API key; an empty one where there are none.")],
) -> None:
    """Print the secret with which the webhooks of an API key are signed, for its receiver.

    It is derived from ATELIER_WEBHOOK_SECRET.
    """
    from service.webhooks.target import secret_of

    master = settings_under().webhook_secret
    if master is None:
        raise ValueError("ATELIER_WEBHOOK_SECRET is not set: the secrets of API keys are derived from it.")
    typer.echo(secret_of(master.get_secret_value().encode(), key))


def _run(settings: Settings, work: Callable[[Deliveries], Coroutine[Any, Any, T]]) -> T:
    from service.errors import ServiceError
    from service.storage.embedded_valkey.files import EmbeddedValkeyError

    async def run() -> T:
        async with _deliveries(settings) as deliveries:
            return await work(deliveries)

    try:
        return asyncio.run(run())
    except (ServiceError, EmbeddedValkeyError) as error:
        raise ValueError(str(error)) from error


@asynccontextmanager
async def _deliveries(settings: Settings) -> AsyncIterator[Deliveries]:
    """Those in the store of the settings, while a service uses it or not."""
    from service.metrics import Metrics
    from service.storage.client import connect
    from service.storage.embedded_valkey.server import EmbeddedValkey
    from service.webhooks.deliveries import Deliveries

    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if url is None:
            server = EmbeddedValkey(settings.data_dir)
            if not server.folder.is_dir():
                raise ValueError(
                    f"There is no store in {server.folder.parent}. Name its folder with --data-dir, or a "
                    "Redis with --redis-url."
                )
            url = await stack.enter_async_context(server.shared())
        redis = await stack.enter_async_context(connect(url))
        yield Deliveries(redis, metrics=Metrics())
