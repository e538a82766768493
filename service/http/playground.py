"""GET / and /playground/...: the service's own page, static files of the package."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

from service.errors import RouteNotFound

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
# Of the folder css/: sent inside the page, so that the browser waits for nothing else before it paints.
STYLESHEETS = ("base", "controls", "layout", "styles", "composer", "board", "regions", "results")
STYLESHEETS_PLACE = b"<style></style>"
# Only the page's own files run or load, and no text ever becomes markup: the browser itself refuses that.
# The one style element is named by its hash.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'sha256-{stylesheet}'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
# Where people give the page an API key, a page that opened it loses its handle to it. The browser then
# drops the renderer that it has begun with for a new one: over a quarter of all work before the first
# paint. Without keys the page holds nothing to guard.
OPENER_POLICY = {"Cross-Origin-Opener-Policy": "same-origin"}
HEADERS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for again each time, and sent again only when it has changed.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    compressed: bytes
    media_type: str
    etag: str

    def response(self, request: Request, headers: Mapping[str, str]) -> Response:
        headers = {**headers, "ETag": self.etag}
        known = request.headers.get("if-none-match", "")
        if self.etag in [tag.strip() for tag in known.split(",")]:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", "") and len(self.compressed) < len(self.content):
            headers["Content-Encoding"] = "gzip"
            return Response(self.compressed, headers=headers, media_type=self.media_type)
        return Response(self.content, headers=headers, media_type=self.media_type)


def playground_router(*, asks_for_key: bool) -> APIRouter:
    """The page and its files, which are read here, once. `asks_for_key`: the service takes API keys."""
    folder = files("service") / "playground"
    stylesheet = b"\n".join((folder / "css" / f"{name}.css").read_bytes() for name in STYLESHEETS)
    content = (
        (folder / "index.html").read_bytes().replace(STYLESHEETS_PLACE, b"<style>%b</style>" % stylesheet)
    )
    page, assets = _asset(content, ".html"), _assets(folder)
    digest = base64.b64encode(hashlib.sha256(stylesheet).digest()).decode()
    headers = HEADERS | {"Content-Security-Policy": CONTENT_SECURITY_POLICY.format(stylesheet=digest)}
    page_headers = headers | (OPENER_POLICY if asks_for_key else {})
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        return page.response(request, page_headers)

    @router.get("/playground/{path:path}")
    async def asset(path: str, request: Request) -> Response:
        if path not in assets:
            raise RouteNotFound(f"There is no /playground/{path[:60]}; the page is at /.")
        return assets[path].response(request, headers)

    return router


def _assets(folder: Traversable, prefix: str = "") -> Mapping[str, Asset]:
    """The files of a folder and of those within, by path; those alone that the page asks for."""
    found: dict[str, Asset] = {}
    for entry in folder.iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if entry.is_dir():
            found |= _assets(entry, f"{prefix}{entry.name}/")
        elif suffix in MEDIA_TYPES and suffix != ".html":
            found[prefix + entry.name] = _asset(entry.read_bytes(), suffix)
    return found


def _asset(content: bytes, suffix: str) -> Asset:
    # Weak: the same for the compressed and the plain form.
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    return Asset(content, gzip.compress(content, mtime=0), MEDIA_TYPES[suffix], etag)
