"""RateLimits: counts requests by API key, and puts what is left in the headers of each response."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.application.caller import Caller
from service.errors import RateLimitExceeded
from service.http.error_handlers import error_response


class RateLimits:
    """Middleware: counts each request of an API key that has limits, or answers 429."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["state"]["caller"].rates:
            await self.app(scope, receive, send)
            return
        caller: Caller = scope["state"]["caller"]

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                await caller.look()
                headers = MutableHeaders(scope=message)
                for kind, window in caller.windows.items():  # named as OpenAI names them
                    headers[f"x-ratelimit-limit-{kind}"] = str(window.limit)
                    headers[f"x-ratelimit-remaining-{kind}"] = str(window.remaining)
                    headers[f"x-ratelimit-reset-{kind}"] = f"{window.wait_seconds(window.limit):.3f}s"
            await send(message)

        try:
            await caller.take("requests", 1)
        except RateLimitExceeded as error:
            await error_response(error)(scope, receive, send_with_limits)
            return
        await self.app(scope, receive, send_with_limits)
