"""Caller: who sent this request, as far as its API key tells."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from service.access.api_key import ApiKey
from service.styles.record import NAMELESS


@dataclass(frozen=True, slots=True)
class Caller:
    api_key: ApiKey | None = None  # None: the service has none, or the path asks for none

    @property
    def tenant(self) -> str:
        return NAMELESS if self.api_key is None else self.api_key.tenant


def caller_of(scope: Scope) -> Caller:
    caller = scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller
