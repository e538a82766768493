"""GET /docs: Swagger UI, its files served from here so that it works without internet access."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse

from service.errors import RouteNotFound

router = APIRouter(include_in_schema=False)
# Only the static files of that package are used: Swagger UI as published.
FOLDER = files("fastapi_offline") / "static"
MEDIA_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@router.get("/docs")
async def docs() -> Response:
    # Relative URLs, which stay right behind a proxy that adds a path prefix.
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Atelier",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"displayRequestDuration": True, "defaultModelsExpandDepth": 0},
    )


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    if name not in MEDIA_TYPES:
        raise RouteNotFound(f"There is no /docs/{name[:60]}; /docs lists what there is.")
    return FileResponse(str(FOLDER / name), media_type=MEDIA_TYPES[name])
