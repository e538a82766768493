"""GET /livez, /readyz, /metrics and /version."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field

from service import __version__
from service.http.dependencies import ContextDep
from service.http.openapi import responses
from service.metrics import Metrics
from service.storage.client import StoreState

router = APIRouter()


class LiveResponse(BaseModel):
    status: Literal["live"] = Field(default="live", description="The process answers.")


class ReadyResponse(BaseModel):
    status: Literal["ready"] = Field(default="ready", description="Images can be drawn.")
    model: Literal["ready"] = Field(default="ready", description="Loaded and warm.")
    store: StoreState = Field(
        description="`read_only`: full; styles can be used and deleted, and none added. `unavailable`: only "
        "styles in memory work."
    )


class VersionResponse(BaseModel):
    version: str = Field(description="Of the service.")
    row_tile: int | None = Field(
        description="Rows to which batches are padded on this CPU, as measured at the start; null on a GPU, "
        "with a compiled model, where no number of rows holds, and while the model loads."
    )
    is_batch_invariant: bool = Field(
        description="Whether an image has the same bytes alone and in any batch: true with a row tile."
    )


@router.get("/livez", tags=["health"], responses=responses.LIVE)
async def livez() -> LiveResponse:
    """200 as long as the event loop runs."""
    return LiveResponse()


@router.get("/readyz", tags=["health"], responses=responses.READY)
async def readyz(context: ContextDep) -> ReadyResponse:
    """200 while images can be drawn; 503 with the reason while the model loads, and once it has died.

    A store that is full or does not answer is reported, still with 200: plain images and styles in memory
    still work, and since all replicas share one store, taking them all out of service would help nobody.
    """
    return ReadyResponse(store=await context.service.styles.store_state())


@router.get("/metrics", tags=["health"], response_class=Response, responses=responses.METRICS)
async def metrics(request: Request) -> Response:
    """Prometheus text, or OpenMetrics when `Accept` names it."""
    served: Metrics = request.app.state.metrics
    if (ready := request.app.state.readiness.service) is not None:
        await ready.styles.store_state()  # which sets its metric
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
