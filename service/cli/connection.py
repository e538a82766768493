"""The connection of `atelier generate` and `atelier styles` to a running service.

The exit status is 0; 2 for a wrong flag; NO_SERVICE, REFUSED or TRY_LATER; else 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx2
import typer

from service.cli.options import CommandFailed
from service.settings import ClientSettings

NO_SERVICE = 3  # nothing answers at the address
REFUSED = 4  # the service refused the request: a wrong value, an unknown style, no API key
TRY_LATER = 5  # it is starting, busy or out of time, or the rate limit of the key is used up
LOCAL_URL = "http://127.0.0.1:8000"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TEMPORARY = (408, 429, 503, 504)
# A service ends requests after 600 s by default; a stream is never silent for long.
TIMEOUT = httpx2.Timeout(600.0, connect=5.0)

Url = Annotated[
    str | None, typer.Option(help=f"Address of the service; by default ATELIER_URL, else {LOCAL_URL}.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


class Connection:
    """Requests to one service. Each method raises CommandFailed, with the exit status for what went wrong."""

    def __init__(self, client: httpx2.Client, *, is_default: bool) -> None:
        self._client = client
        self._is_default = is_default  # no address was given

    def json(self, method: str, path: str, **parts: Any) -> dict[str, Any]:
        """The body of a response in JSON."""
        response = self._send(method, path, **parts)
        try:
            body: dict[str, Any] = response.json()
        except ValueError as error:
            raise CommandFailed(self._not_atelier(response), REFUSED) from error
        return body

    def content(self, path: str) -> bytes:
        """What a GET returns."""
        return self._send("GET", path).content

    def events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a stream of images, which are edits where the body has a picture; an `error` event
        raises as a refusal does.
        """
        path = "/v1/images/edits" if "image" in body else "/v1/images/generations"
        with self._reaching(), self._client.stream("POST", path, json=body | {"stream": True}) as response:
            if response.is_error:
                response.read()
                raise self._refusal(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        is_temporary = event["error"].get("code") in ("deadline_exceeded", "not_ready")
                        raise CommandFailed(event["error"]["message"], TRY_LATER if is_temporary else 1)
                    yield event

    def _send(self, method: str, path: str, **parts: Any) -> httpx2.Response:
        with self._reaching():
            response = self._client.request(method, path, **parts)
        if response.is_error:
            raise self._refusal(response)
        return response

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        url = str(self._client.base_url).rstrip("/")
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            message = f"There is no service at {url} ({error or 'no answer'})."
            if self._is_default:
                message = (
                    f"No service runs at {url}. Start one in another terminal with `atelier serve`, or set "
                    "ATELIER_URL to the address of a service that runs elsewhere."
                )
            raise CommandFailed(message, NO_SERVICE) from error
        except httpx2.HTTPError as error:
            message = f"The connection to {url} was lost: {error or type(error).__name__}."
            raise CommandFailed(message, NO_SERVICE) from error

    def _refusal(self, response: httpx2.Response) -> CommandFailed:
        status = response.status_code
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return CommandFailed(self._not_atelier(response), REFUSED)
        if status == 401:
            message += " This command sends the key that is in ATELIER_API_KEY."
        if status in TEMPORARY:
            return CommandFailed(message, TRY_LATER)
        return CommandFailed(message, REFUSED if status < 500 else 1)

    def _not_atelier(self, response: httpx2.Response) -> str:
        return (
            f"{response.request.url} answered with status {response.status_code} and a body that is not "
            "Atelier's. Is the address, ATELIER_URL or --url, that of an Atelier service?"
        )


@contextmanager
def connect(url: str | None) -> Iterator[Connection]:
    """The service at `url`, else at ATELIER_URL, else on the default port of this machine."""
    settings = ClientSettings()
    given = url or settings.url
    # OpenAI's clients are given the address with /v1 at its end, so people paste that.
    address = (given or LOCAL_URL).rstrip("/").removesuffix("/v1")
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise ValueError(f"The address of the service must look like {LOCAL_URL}, not {given!r}.")
    headers = {}
    if settings.api_key is not None:
        headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    is_local = urlsplit(address).hostname in LOOPBACK  # which no proxy of the environment can reach
    with httpx2.Client(base_url=address, headers=headers, timeout=TIMEOUT, trust_env=not is_local) as client:
        yield Connection(client, is_default=given is None)
