"""`atelier styles export` and `import`: all styles of a store, in one file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.cli.options import fail, setting, settings_under, writable_file

if TYPE_CHECKING:
    from service.settings import Settings
    from service.styles import archive
    from service.styles.repository import StyleRepository

T = TypeVar("T")
NewArchive = Annotated[Path, typer.Argument(callback=writable_file, help="The archive to write, a .tar.")]
ArchivePath = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The archive, a .tar.")]
DataDir = Annotated[Path | None, setting("data_dir")]
RedisUrl = Annotated[str | None, setting("redis_url")]


def export_styles(file: NewArchive, data_dir: DataDir = None, redis_url: RedisUrl = None) -> None:
    """Write all styles of the store, of all tenants, into a tar of JSON and pictures.

    Works on the store itself, while a service uses it or not.
    """
    settings = settings_under(data_dir=data_dir, redis_url=redis_url)
    from service.cli.progress import counter
    from service.styles import archive

    async def run() -> archive.Export:
        async with _store(settings, is_made=False) as repository:
            with counter(await archive.num_stored(repository), "exporting") as count:
                return await archive.export_styles(repository, file, count)

    done = _run(run())
    typer.echo(f"Exported {_styles(done.num_styles)} to {file}.")
    if done.damaged:
        fail(f"Left out {_styles(len(done.damaged))} that are damaged: {', '.join(done.damaged)}.")


def import_styles(file: ArchivePath, data_dir: DataDir = None, redis_url: RedisUrl = None) -> None:
    """Add the styles of an archive to the store, under their IDs. Those that are there stay as they are.

    Works on the store itself, while a service uses it or not. It can be interrupted and run again.
    """
    settings = settings_under(data_dir=data_dir, redis_url=redis_url)
    from service.cli.progress import counter
    from service.styles import archive
    from service.styles.archive_file import check_archive

    num_styles = check_archive(file)

    async def run() -> archive.Import:
        async with _store(settings, is_made=True) as repository:
            with counter(num_styles, "importing") as count:
                return await archive.import_styles(repository, file, count)

    done = _run(run())
    typer.echo(f"Imported {_styles(done.num_new)}; already there: {done.num_existing:,}.")


@asynccontextmanager
async def _store(settings: Settings, *, is_made: bool) -> AsyncIterator[StyleRepository]:
    """The styles in the store of the settings; an embedded one is made when there is none and `is_made`."""
    from service.metrics import Metrics
    from service.storage.client import connect as connect_store
    from service.storage.embedded_valkey.server import EmbeddedValkey
    from service.styles.repository import StyleRepository

    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if url is None:
            server = EmbeddedValkey(settings.data_dir)
            if not is_made and not server.folder.is_dir():
                raise ValueError(
                    f"There is no style store in {server.folder.parent}. Name its folder with --data-dir, or "
                    "a Redis with --redis-url."
                )
            url = await stack.enter_async_context(server.shared())
        redis = await stack.enter_async_context(connect_store(url))
        yield StyleRepository(redis, fingerprint="", metrics=Metrics())


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result; an error that says what to do becomes a ValueError."""
    from service.errors import ServiceError
    from service.storage.embedded_valkey.files import EmbeddedValkeyError

    try:
        return asyncio.run(work)
    except (ServiceError, EmbeddedValkeyError) as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be used: {error.strerror}.") from error


def _styles(number: int) -> str:
    return f"{number:,} {'style' if number == 1 else 'styles'}"
