"""Authentication: nothing under /v1 without an API key, once the service has any."""

from __future__ import annotations

from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.api_key import ApiKey
from service.access.keyring import ReloadingKeyring
from service.application.caller import Caller
from service.errors import InvalidApiKey
from service.http.dependencies import Readiness
from service.http.error_handlers import error_response
from service.metrics import Metrics

# The other paths are harmless and asked for by machines without keys: whether the service lives and is ready,
# its version, its metrics (no prompt, style or key among them), its documentation.
GUARDED = "/v1"
# For the OpenAPI document alone: the middleware decides before the body is read.
BEARER = HTTPBearer(
    auto_error=False, description="An API key, made by `atelier keys new`. Needed once the service has any."
)


class Authentication:
    """Middleware: finds the caller, or answers 401. Paths that do not exist are guarded too."""

    def __init__(
        self, app: ASGIApp, keyring: ReloadingKeyring, readiness: Readiness, metrics: Metrics
    ) -> None:
        self.app = app
        self.keyring = keyring
        self.readiness = readiness
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                api_key = self._api_key(scope) if is_guarded(scope["path"]) else None
            except InvalidApiKey as error:
                self.metrics.refusals.labels(reason=error.code).inc()
                await error_response(error, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
            # A service that is not ready counts nothing: it refuses everything anyway.
            service = self.readiness.service
            limiter = None if service is None else service.rate_limiter
            scope["state"]["caller"] = Caller(api_key, limiter, self.metrics)
        await self.app(scope, receive, send)

    def _api_key(self, scope: Scope) -> ApiKey | None:
        keyring = self.keyring.now
        if not len(keyring):
            return None
        scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise InvalidApiKey(
                "The request has no API key. Send one in the header `Authorization: Bearer atl_...`."
            )
        api_key = keyring.find(secret.strip())
        if api_key is None:
            raise InvalidApiKey("The API key is not one of this service's. Ask its operator for one.")
        scope["state"]["trace"].fields["api_key"] = api_key.name
        return api_key


def is_guarded(path: str) -> bool:
    return path == GUARDED or path.startswith(f"{GUARDED}/")


def caller_of(scope: Scope) -> Caller:
    caller: Caller = scope["state"]["caller"]
    return caller
