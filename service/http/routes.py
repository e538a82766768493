"""Which routes a path has: for refusals that come before the routing, or instead of it."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import Scope

UNMATCHED = "unmatched"


def methods_of(app: FastAPI, path: str) -> list[str]:
    """The methods that the path has, sorted; none when there is no such path."""
    return sorted({method for _, methods in _matching(app, path) for method in methods})


def label_of(scope: Scope) -> str:
    """Method and template of the request's route, wherever the request was answered.

    "other TEMPLATE" where the path has no such method, and "unmatched" where there is no such path: clients
    may send whatever they like, and the label's values stay a closed set.
    """
    method, route = scope["method"], scope.get("route")
    if route is not None and method in (route.methods or ()):
        return f"{method} {route.path}"
    matching = _matching(scope["app"], scope["path"]) if "app" in scope else []
    for template, methods in matching:
        if method in methods:
            return f"{method} {template}"
    return f"other {matching[0][0]}" if matching else UNMATCHED


def _matching(app: FastAPI, path: str) -> list[tuple[str, set[str]]]:
    """Template and methods of each route whose path this is, in the order in which they are tried."""
    return [
        (str(route.path), set(route.methods or ()))
        for route in iter_route_contexts(app.routes)
        if route.path_regex.match(path)
    ]
