"""Authentication: nothing under /v1 without an API key, once the service has any; without keys, nothing from
another site."""

from __future__ import annotations

from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.api_key import ApiKey
from service.access.keyring import ReloadingKeyring
from service.application.caller import Caller
from service.errors import HostNotAllowed, InvalidApiKey
from service.http.dependencies import Readiness
from service.http.error_handlers import error_response
from service.metrics import Metrics

# The other paths are harmless and asked for by machines without keys: whether the service lives and is ready,
# its version, its metrics (no prompt, style or key among them), its documentation.
GUARDED = "/v1"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# For the OpenAPI document alone: the middleware decides before the body is read.
BEARER = HTTPBearer(
    auto_error=False, description="An API key, made by `atelier keys new`. Needed once the service has any."
)


class Authentication:
    """Middleware: finds the caller, or answers 401. Paths that do not exist are guarded too."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: ReloadingKeyring,
        readiness: Readiness,
        metrics: Metrics,
        allowed_hosts: str = "",
    ) -> None:
        """`allowed_hosts`: names besides loopback's, separated by commas; * for any."""
        self.app = app
        self.keyring = keyring
        self.allowed_hosts = {name.strip().lower() for name in allowed_hosts.split(",") if name.strip()}
        self.readiness = readiness
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                api_key = self._api_key(scope) if is_guarded(scope["path"]) else None
            except (InvalidApiKey, HostNotAllowed) as error:
                self.metrics.refusals.labels(reason=error.code).inc()
                headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, InvalidApiKey) else {}
                await error_response(error, headers)(scope, receive, send)
                return
            # A service that is not ready counts nothing: it refuses everything anyway.
            service = self.readiness.service
            limiter = None if service is None else service.rate_limiter
            scope["state"]["caller"] = Caller(api_key, limiter, self.metrics)
        await self.app(scope, receive, send)

    def _api_key(self, scope: Scope) -> ApiKey | None:
        keyring = self.keyring.now
        if not len(keyring):
            self._require_same_site(scope)
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

    def _require_same_site(self, scope: Scope) -> None:
        """HostNotAllowed when a page of another site may be behind the request.

        Browsers send whatever a page asks for, and with DNS rebinding also read the response: the name in
        `Host` is then the page's own. With API keys neither matters, since a page does not know the key.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = _host_name(host)
        is_loopback = name in LOOPBACK or name.endswith(".localhost")
        if not is_loopback and not {name, "*"} & self.allowed_hosts:
            raise HostNotAllowed(
                f"Without API keys this service is for loopback names, and {name[:100]!r} is none. Set "
                "ATELIER_ALLOWED_HOSTS to allow the name, or make API keys."
            )
        if scope["method"] in SAFE_METHODS:
            return
        origin = headers.get("origin")
        is_other = origin is not None and origin.partition("://")[2].lower() != host.lower()
        if is_other or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise HostNotAllowed(
                "Without API keys this service takes no changes from pages of other sites.",
                code="cross_site_request",
            )


def _host_name(host: str) -> str:
    """The name of a Host header, without its port and the brackets of IPv6."""
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


def is_guarded(path: str) -> bool:
    return path == GUARDED or path.startswith(f"{GUARDED}/")


def caller_of(scope: Scope) -> Caller:
    caller: Caller = scope["state"]["caller"]
    return caller
