"""`atelier keys`: make API keys."""

from __future__ import annotations

from typing import Annotated

import typer

keys = typer.Typer(help="API keys.", no_args_is_help=True)


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Name of the key, as the log shows it.")],
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Tenant whose styles the key can use; the key's name by default. "
            'An empty string, "", stands for the styles that were created without a key.'
        ),
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Maximum requests per minute.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Maximum images per minute.")] = None,
    styles: Annotated[int | None, typer.Option(min=1, help="Maximum styles that the tenant keeps.")] = None,
    bytes: Annotated[int | None, typer.Option(min=1, help="Maximum bytes that they take.")] = None,
    style: Annotated[
        str | None,
        typer.Option(help="Style of requests that name none: a style ID or code, or STYLE:STRENGTH."),
    ] = None,
    weight: Annotated[
        int, typer.Option(min=1, max=100, help="Its share while other keys have images waiting, too.")
    ] = 1,
    webhook: Annotated[
        str | None, typer.Option(help="URL that is told of its jobs when they have ended.")
    ] = None,
) -> None:
    """Create an API key and print the line that enables it. The key itself is stored nowhere."""
    from service.access.api_key import Limits, new_secret, write_line

    secret = new_secret()
    try:
        limits = Limits(requests, images, styles, bytes)
        line = write_line(
            secret, name, tenant=tenant, limits=limits, style=style, weight=weight, webhook=webhook
        )
    except ValueError as error:
        raise ValueError(f"Cannot create this key: {error}.") from error
    typer.echo(f"The API key, shown only once:\n\n  {secret}\n")
    typer.echo(
        "The line to add to the file that ATELIER_API_KEYS_FILE names. A running service reads the file "
        f"again when it changes:\n\n  {line}"
    )
