"""API keys for tests: made as `atelier keys new` makes them, sent as clients send them."""

from __future__ import annotations

import httpx

from service.access.api_key import Limits, new_secret, write_line
from tests.support.server import Running


class Key:
    """A secret and the line that lets it in."""

    def __init__(
        self,
        name: str,
        *,
        tenant: str | None = None,
        limits: Limits | None = None,
        style: str | None = None,
    ) -> None:
        self.secret = new_secret()
        self.line = write_line(self.secret, name, tenant=tenant, limits=limits, style=style)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    def client(self, server: Running) -> httpx.Client:
        """An HTTP client that sends the key with each request."""
        client = server.client()
        client.headers.update(self.headers)
        return client


def lines(*keys: Key) -> str:
    """For ATELIER_API_KEYS."""
    return ",".join(key.line for key in keys)
