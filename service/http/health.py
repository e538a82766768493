"""GET /livez, /readyz, /metrics and /version."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from prometheus_client.exposition import choose_encoder

from service import __version__
from service.http.dependencies import ContextDep
from service.http.openapi import responses
from service.http.schemas.health import LiveResponse, ReadyResponse, VersionResponse
from service.metrics import Metrics

router = APIRouter()


@router.get("/livez", tags=["health"], responses=responses.LIVE)
async def livez() -> LiveResponse:
    """200 as long as the event loop runs."""
    return LiveResponse()


@router.get("/readyz", tags=["health"], responses=responses.READY)
async def readyz(context: ContextDep) -> ReadyResponse:
    """200 while images can be drawn; 503 with the reason while the model loads, and once it has died.

    A store that does not answer is reported and leaves the answer at 200: plain images and styles in memory
    still work, and since all replicas share one store, taking them all out of service would help nobody.
    """
    return ReadyResponse(store="ready" if await context.service.styles.store_answers() else "unavailable")


@router.get("/metrics", tags=["health"], response_class=Response, responses=responses.METRICS)
async def metrics(request: Request) -> Response:
    """Prometheus text, or OpenMetrics when `Accept` asks for it."""
    served: Metrics = request.app.state.metrics
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(served.registry), headers={"Content-Type": content_type})


@router.get("/version", tags=["health"], responses=responses.VERSION)
async def version(request: Request) -> VersionResponse:
    """The version of the service, and whether batches change images; `/v1/models` has the model's version."""
    row_tile = request.app.state.service.row_tile
    return VersionResponse(version=__version__, row_tile=row_tile, is_batch_invariant=row_tile is not None)


@router.get("/", include_in_schema=False)
async def root() -> Response:
    return RedirectResponse("/docs", status_code=307)
