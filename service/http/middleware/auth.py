"""Authentication: nothing under /v1 without an API key, once the service has any."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.api_key import ApiKey
from service.access.keyring import ReloadingKeyring
from service.errors import InvalidApiKey
from service.http.error_handlers import error_response
from service.metrics import Metrics
from service.storage.schema import NO_TENANT

# What needs no key is harmless to know, and asked for by machines that have none: whether the service lives
# and is ready, which version it is, what it counts (no prompt, style or key among it), its documentation.
GUARDED = "/v1"
# For the document alone: who is let in is decided below, before the body is read.
BEARER = HTTPBearer(
    auto_error=False, description="An API key, made by `atelier keys new`. Needed once the service has any."
)


class Authentication:
    """Middleware: finds the caller, or answers 401. Paths that do not exist are guarded too."""

    def __init__(self, app: ASGIApp, keyring: ReloadingKeyring, metrics: Metrics) -> None:
        self.app = app
        self.keyring = keyring
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope["state"]["caller"] = self._caller(scope)
            except InvalidApiKey as error:
                self.metrics.refusals.labels(reason=error.code).inc()
                await error_response(error, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        if not is_guarded(scope["path"]):
            return Caller()
        keyring = self.keyring.now
        if not len(keyring):
            return Caller()
        scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise InvalidApiKey(
                "The request has no API key. Send one in the header `Authorization: Bearer atl_...`."
            )
        api_key = keyring.find(secret.strip())
        if api_key is None:
            raise InvalidApiKey("The API key is not one of this service's. Ask whoever runs it for one.")
        scope["state"]["account"].fields["api_key"] = api_key.name
        return Caller(api_key)


def is_guarded(path: str) -> bool:
    return path == GUARDED or path.startswith(f"{GUARDED}/")


@dataclass(frozen=True, slots=True)
class Caller:
    api_key: ApiKey | None = None  # None: the service has none, or the path asks for none

    @property
    def tenant(self) -> str:
        return NO_TENANT if self.api_key is None else self.api_key.tenant


def caller_of(scope: Scope) -> Caller:
    caller = scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller
