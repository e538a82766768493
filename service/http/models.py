"""The model that is served."""

from __future__ import annotations

from fastapi import APIRouter

from service.errors import ModelNotFound
from service.http.parts import Parts, ReadyParts
from service.http.schemas import ModelListResponse, ModelResponse

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(parts: ReadyParts) -> ModelListResponse:
    """The one model, with its native sizes."""
    return ModelListResponse(data=[_response(parts)])


@router.get("/v1/models/{model}")
async def get_model(model: str, parts: ReadyParts) -> ModelResponse:
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
        guidance=generator.guidance,
        alpha=generator.alpha,
        max_prompt_tokens=generator.max_prompt_tokens,
        qualities={name: str(each) for name, each in generator.qualities.shortcuts().items()},
        resident_bytes=generator.resident_bytes,
    )
