"""`atelier store`: look for damage in the embedded style store, and repair it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import fail, setting, settings_under

if TYPE_CHECKING:
    from service.storage.embedded_valkey.append_log import Damage
    from service.storage.embedded_valkey.server import EmbeddedValkey

store = typer.Typer(help="The embedded style store, while no service uses it.", no_args_is_help=True)
DataDir = Annotated[Path | None, setting("data_dir")]


@store.command()
def check(data_dir: DataDir = None) -> None:
    """Look for damage in the store's files. Changes nothing; exit status 1 when there is damage."""
    asyncio.run(_check(settings_under(data_dir=data_dir).data_dir))


@store.command()
def repair(
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Repair without asking.")] = False,
) -> None:
    """Cut off what follows the last whole change in a damaged store, after a copy of it was made."""
    asyncio.run(_repair(settings_under(data_dir=data_dir).data_dir, asks=not yes))


async def _check(data_dir: Path) -> None:
    from service.storage.embedded_valkey.append_log import num_commands

    async with _stopped_store(data_dir) as server:
        damage = await _find_damage(server)
        if damage is not None:
            remedy = f" {server.remedy('repair')} repairs it." * damage.can_be_repaired
            fail(f"The style store in {server.folder} is damaged. {damage.reason}{remedy}")
        typer.echo(
            f"The style store in {server.folder} is whole: {num_commands(server.log_folder):,} commands "
            "since its base file was written."
        )


async def _repair(data_dir: Path, *, asks: bool) -> None:
    from service.storage.embedded_valkey.append_log import repair as run

    async with _stopped_store(data_dir) as server:
        num_repairs = 0
        while (damage := await _find_damage(server)) is not None:
            typer.echo(f"The style store in {server.folder} is damaged. {damage.reason}")
            if not damage.can_be_repaired:
                raise typer.Exit(1)
            num_repairs += 1
            backup = server.folder / f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{num_repairs}"
            if asks:
                typer.confirm(f"Repair it? What is changed or removed is kept in {backup}", abort=True)
            run(server.log_folder, damage, backup)
            typer.echo(f"Repaired. What was changed or removed is in {backup}.")
    if not num_repairs:
        typer.echo(f"The style store in {server.folder} is whole; nothing was changed.")
    await _start_once(server)


async def _start_once(server: EmbeddedValkey) -> None:
    """The proof that it can be used; an error says why it cannot."""
    from service.storage.client import connect

    await server.start()
    try:
        async with connect(server.url) as redis:
            num_styles = sum([1 async for _ in redis.scan_iter("atelier:style:*", count=1000)])
        typer.echo(f"It starts, and has {num_styles:,} styles.")
    finally:
        await server.stop()


@asynccontextmanager
async def _stopped_store(data_dir: Path) -> AsyncIterator[EmbeddedValkey]:
    """The store of the folder, which nobody else uses meanwhile. ValueError says why it cannot be had."""
    from service.storage.embedded_valkey.files import EmbeddedValkeyError
    from service.storage.embedded_valkey.server import EmbeddedValkey

    server = EmbeddedValkey(data_dir)
    if not server.folder.is_dir():
        raise ValueError(
            f"There is no style store in {server.folder.parent}. Name its folder with --data-dir."
        )
    try:
        async with server.alone():
            yield server
    except EmbeddedValkeyError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        raise ValueError(f"The style store in {server.folder} cannot be used: {error}.") from error


async def _find_damage(server: EmbeddedValkey) -> Damage | None:
    from service.storage.embedded_valkey.append_log import find_damage

    return find_damage(server.log_folder, server.binary, await _arities())


async def _arities() -> dict[str, int]:
    """How many words each command of Valkey has, its name included; negative: at least so many."""
    from service.storage.client import connect
    from service.storage.embedded_valkey.server import EmbeddedValkey

    with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
        server = EmbeddedValkey(Path(folder))
        await server.start()
        try:
            async with connect(server.url) as redis:
                return {name.upper(): command["arity"] for name, command in (await redis.command()).items()}
        finally:
            await server.stop()
