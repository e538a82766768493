"""Authentication: nothing under /v1 or /mcp without an API key, once the service has any; without keys,
nothing from other sites. Counts the requests of a key."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.api_key import ApiKey
from service.access.keyring import ReloadingKeyring
from service.application.caller import KINDS, Caller
from service.errors import HostNotAllowed, InvalidApiKey
from service.http.dependencies import Readiness

# The other paths are harmless and requested by machines without keys: whether the service is alive and ready,
# its version, its metrics (no prompt, style or key among them), its documentation.
MCP_PATH = "/mcp"
GUARDED = ("/v1/", f"{MCP_PATH}/")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# By pages of the allowed origins. The rate limits have names that depend on what is limited.
READABLE_HEADERS = (
    "Idempotent-Replayed",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "Server-Timing",
    "Traceparent",
    "X-Native-Size",
    "X-Quality",
    "X-Request-ID",
    "X-Seed",
    "X-Warnings",
    *(f"x-ratelimit-{what}-{kind}" for kind in KINDS for what in ("limit", "remaining", "reset")),
)
# For the OpenAPI document alone: the middleware decides before the body is read.
BEARER = HTTPBearer(
    auto_error=False, description="An API key, made by `atelier keys new`. Needed once the service has any."
)


@dataclass
class Authentication:
    """Middleware: finds the caller, or raises InvalidApiKey, RateLimitExceeded or HostNotAllowed.

    Paths that do not exist are guarded too.
    """

    app: ASGIApp
    keyring: ReloadingKeyring
    readiness: Readiness
    allowed_hosts: frozenset[str]  # besides loopback names, while there are no keys; * for any
    allowed_origins: frozenset[str]  # of other sites whose pages may change things all the same

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and is_guarded(scope["path"]):
            keyring = self.keyring.now
            if keyring.api_keys:
                await self._admit(keyring.find(_secret(scope)), scope)
            else:
                _require_same_site(scope, self.allowed_hosts, self.allowed_origins)
        await self.app(scope, receive, send)

    async def _admit(self, api_key: ApiKey | None, scope: Scope) -> None:
        if api_key is None:
            raise InvalidApiKey("The API key is not one of this service's. Ask its operator for one.")
        scope["state"]["trace"].fields["api_key"] = api_key.name
        # A service that is not ready counts nothing: it refuses everything anyway.
        service = self.readiness.service
        caller = Caller.of(api_key, None if service is None else service.rate_limiter)
        scope["state"]["caller"] = caller
        await caller.take("requests", 1)


def _secret(scope: Scope) -> str:
    scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise InvalidApiKey(
            "The request has no API key. Send one in the header `Authorization: Bearer atl_...`."
        )
    return secret.strip()


def _require_same_site(scope: Scope, allowed_hosts: frozenset[str], allowed_origins: frozenset[str]) -> None:
    """HostNotAllowed when a page of another site may have sent the request, and its origin is not allowed.

    Browsers send whatever a page asks for, and with DNS rebinding also give it the response: the name in
    `Host` is then the page's own. With API keys neither matters, since a page does not know the key.
    """
    headers = Headers(scope=scope)
    host = headers.get("host", "").lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].rstrip(".")
    if name not in LOOPBACK and not name.endswith(".localhost") and not {name, "*"} & allowed_hosts:
        raise HostNotAllowed(
            f"Without API keys this service may be called by loopback names, and {name[:100]!r} is none. Set "
            "ATELIER_ALLOWED_HOSTS to allow it, or make API keys."
        )
    if scope["method"] in SAFE_METHODS:
        return
    origin = headers.get("origin")
    if origin is not None and origin.lower() in allowed_origins:
        return
    is_other = origin is not None and origin.partition("://")[2].lower() != host
    if is_other or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise HostNotAllowed(
            "Without API keys this service takes no changes from pages of other sites. Add the page's origin "
            "to ATELIER_CORS_ORIGINS, or make API keys.",
            code="cross_site_request",
        )


def is_guarded(path: str) -> bool:
    return f"{path}/".startswith(GUARDED)
