"""The model that is served."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from service.errors import ModelNotFound
from service.http.dependencies import Parts, ReadyParts
from service.http.openapi import responses
from service.http.schemas.models import ModelListResponse, ModelResponse

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=responses.LIST_MODELS)
async def list_models(parts: ReadyParts) -> ModelListResponse:
    """The one model, with its native sizes."""
    return ModelListResponse(data=[_response(parts)])


@router.get("/v1/models/{model}", responses=responses.GET_MODEL)
async def get_model(
    model: Annotated[str, Path(description="Its name, the `id` in the list.", examples=["nano"])],
    parts: ReadyParts,
) -> ModelResponse:
    """The model, by its name."""
    require_model(parts, model)
    return _response(parts)


def require_model(parts: Parts, name: str | None) -> None:
    """ModelNotFound unless `name` is the served model's, or None."""
    if name not in (None, parts.generator.name):
        raise ModelNotFound(
            f"This service draws with {parts.generator.name}. Name that model, or none.", param="model"
        )


def _response(parts: Parts) -> ModelResponse:
    generator = parts.generator
    return ModelResponse(
        id=generator.name,
        created=parts.created,
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
