"""The model that is served."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from service.application.generation_request import require_model
from service.http.dependencies import ContextDep, ReadyService
from service.http.openapi import responses

router = APIRouter(tags=["models"])


class ModelResponse(BaseModel):
    id: str = Field(description="Its name, for `model` in a request.")
    object: Literal["model"] = Field(default="model", description="What this is.")
    created: int = Field(description="When it was loaded, in seconds since 1970.")
    owned_by: str = Field(description="Always `atelier`; OpenAI's clients expect it.")
    fingerprint: str = Field(description="16 hex characters: models that share them share style codes.")
    sizes: list[str] = Field(description="The sizes that this service has enabled, `WIDTHxHEIGHT`.")
    default_size: str = Field(description="The size that `auto` is.")
    native_sizes: list[str] = Field(description="The sizes that the model was trained for.")
    precision: Literal["fp32", "bf16"] = Field(description="Of the transformer's layers.")
    guidance: float = Field(description="Weight of the prompt where a request names none.")
    alpha: float = Field(description="How fast a style's lesser components fade where a request names none.")
    max_prompt_tokens: int = Field(description="A longer prompt is cut.")
    qualities: dict[str, str] = Field(description="What each `quality` leaves out; `exact` for nothing.")
    resident_bytes: int = Field(description="Memory of the weights.")


class ModelListResponse(BaseModel):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[ModelResponse] = Field(description="The one model that is served.")


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
