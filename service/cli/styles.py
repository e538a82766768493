"""`atelier styles`: the styles of a running service; and all styles of a store, exported and imported."""

from __future__ import annotations

import json as json_format
import sys
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from service.cli.archive import export_styles, import_styles
from service.cli.connection import AsJson, Connection, Url, connect
from service.cli.terminal_pictures import show_picture

PAGE = 100
MAX_NAME_CHARS = 200  # that the service takes
styles = typer.Typer(help="Styles of a running service; export and import of a store.", no_args_is_help=True)
styles.command("export")(export_styles)
styles.command("import")(import_styles)

Pictures = Annotated[
    list[Path] | None,
    typer.Argument(exists=True, dir_okay=False, help="Up to ten pictures; several become one style."),
]
StyleId = Annotated[str, typer.Argument(help="A style ID, sty_...")]


@styles.command("add")
def add_style(
    pictures: Pictures = None,
    name: Annotated[
        str | None, typer.Option(help="A name for people; by default that of the first file.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Make the style from words, without pictures.")] = None,
    prompt_suffix: Annotated[
        str | None, typer.Option(help="Words that go to the end of each prompt in the style.")
    ] = None,
    json: AsJson = False,
    url: Url = None,
) -> None:
    """Make a style of pictures, and print its ID. The same pictures give the same ID."""
    if bool(pictures) == bool(text):
        raise typer.BadParameter("Name pictures, or words with --text.", param_hint="PICTURES")
    stem = pictures[0].stem[:MAX_NAME_CHARS] if pictures else None
    own_name = stem if stem and stem.isprintable() else None
    given = {"name": own_name if name is None else name, "prompt_suffix": prompt_suffix}
    fields = {field: value for field, value in given.items() if value is not None}
    with ExitStack() as files, connect(url) as service:
        if text is not None:
            style = service.json("POST", "/v1/styles", json=fields | {"text": text})
        else:
            images = [("image", (path.name, _opened(path, files))) for path in pictures or ()]
            style = service.json("POST", "/v1/styles", files=images, data=fields)
    typer.echo(_as_json(style) if json else style["id"])
    for warning in style["warnings"]:
        typer.echo(warning, err=True)
    if name is not None and style["name"] != name:
        typer.echo(f"This style exists, and keeps its name {style['name']!r}.", err=True)


@styles.command("list")
def list_styles(json: AsJson = False, url: Url = None) -> None:
    """List the styles, newest first."""
    with connect(url) as service:
        found = _all_styles(service)
    if json:
        typer.echo(_as_json(found))
    elif sys.stdout.isatty():
        _print_table(found)
    else:  # for cut and awk
        for style in found:
            typer.echo("\t".join((style["id"], _created(style), style["source"], _printable(style["name"]))))


@styles.command("show")
def show_style(style_id: StyleId, json: AsJson = False, url: Url = None) -> None:
    """Show a style, and its picture where the terminal shows pictures."""
    with connect(url) as service:
        style = service.json("GET", _path(style_id))
        if json:
            typer.echo(_as_json(style))
            return
        if style["source"] == "images":
            show_picture(service.content(f"{_path(style_id)}/image"))
    for field in (
        "id",
        "name",
        "source",
        "text",
        "prompt_suffix",
        "num_images",
        "metadata",
        "dominance",
        "agreement",
        "code",
    ):
        if style[field] not in (None, {}):
            typer.echo(f"{field:<13} {_printable(str(style[field]))}")
    typer.echo(f"{'created':<13} {_created(style)}")


@styles.command("rm")
def remove_styles(
    style_ids: Annotated[list[str], typer.Argument(help="Style IDs.")], url: Url = None
) -> None:
    """Delete styles, their pictures and everything computed from them."""
    with connect(url) as service:
        for style_id in style_ids:
            service.json("DELETE", _path(style_id))
            typer.echo(f"{style_id} is deleted.")


def _all_styles(service: Connection) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": PAGE}
    while True:
        page = service.json("GET", "/v1/styles", params=query)
        found += page["data"]
        if not page["has_more"]:
            return found
        query["after"] = page["last_id"]


def _opened(path: Path, files: ExitStack) -> Any:
    try:
        return files.enter_context(path.open("rb"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def _print_table(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("ID", "created", "source", "name", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for style in found:
        table.add_row(style["id"], _created(style), style["source"], _printable(style["name"]))
    Console(markup=False, highlight=False).print(table)


def _created(style: dict[str, Any]) -> str:
    created = style["created"]
    return "" if created is None else f"{datetime.fromtimestamp(created):%Y-%m-%d %H:%M}"


def _path(style_id: str) -> str:
    return f"/v1/styles/{quote(style_id, safe='')}"


def _printable(text: str | None) -> str:
    """Without control characters: somebody else may have chosen the name, and they command the terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text or "")


def _as_json(value: Any) -> str:
    return json_format.dumps(value, indent=2)
