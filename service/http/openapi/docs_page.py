"""The page of the documentation. Its scripts come from here, so that it works without the internet."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse

from service.errors import RouteNotFound

router = APIRouter(include_in_schema=False)
# Of that package the files alone: Swagger UI as its makers publish it.
FOLDER = files("fastapi_offline") / "static"
MEDIA_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@router.get("/docs")
async def docs() -> Response:
    # Relative addresses, which hold behind a proxy that puts a path in front, too.
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
