"""The model that is served."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from service.application.generation_request import require_model
from service.http.dependencies import ContextDep, ReadyService
from service.http.openapi import responses
from service.http.schemas.models import ModelListResponse, ModelResponse

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=responses.LIST_MODELS)
async def list_models(context: ContextDep) -> ModelListResponse:
    """The one model, with its native sizes."""
    return ModelListResponse(data=[_response(context.service)])


@router.get("/v1/models/{model}", responses=responses.GET_MODEL)
async def get_model(
    model: Annotated[str, Path(description="Its name, the `id` in the list.", examples=["nano"])],
    context: ContextDep,
) -> ModelResponse:
    """The model, by its name."""
    require_model(model, context.service.images.generator)
    return _response(context.service)


def _response(service: ReadyService) -> ModelResponse:
    generator = service.images.generator
    return ModelResponse(
        id=generator.name,
        created=service.loaded_at,
        owned_by="atelier",
        fingerprint=generator.fingerprint,
        sizes=[str(size) for size in generator.sizes],
        default_size=str(generator.default_size),
        native_sizes=[str(size) for size in generator.native_sizes],
        precision=generator.precision,
        guidance=generator.guidance,
        alpha=generator.alpha,
        max_prompt_tokens=generator.max_prompt_tokens,
        qualities={name: str(shortcut) for name, shortcut in generator.qualities.shortcuts().items()},
        resident_bytes=generator.resident_bytes,
    )
