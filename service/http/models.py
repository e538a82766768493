"""The model that is served."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from service.application.model_names import ANY_NAME
from service.http.dependencies import ContextDep, ReadyService
from service.http.openapi import responses

router = APIRouter(tags=["models"])


class VocabularyResponse(BaseModel):
    things: list[str] = Field(description="What an image may show.")
    colours: list[str] = Field(description="For things and backgrounds.")
    media: list[str] = Field(description="What an image may look drawn in.")
    poses: list[str] = Field(
        description="Where the thing may be: the seed picks one of them where a prompt names none."
    )


class ModelResponse(BaseModel):
    id: str = Field(description="Its name, for `model` in a request.")
    object: Literal["model"] = Field(default="model", description="What this is.")
    created: int = Field(description="When it was loaded, in seconds since 1970.")
    owned_by: str = Field(description="Always `atelier`; OpenAI's clients expect it.")
    fingerprint: str = Field(description="16 hex characters: models that share them share style codes.")
    sizes: list[str] = Field(description="The sizes that this service has enabled, `WIDTHxHEIGHT`.")
    default_size: str = Field(description="The size that `auto` is.")
    native_sizes: list[str] = Field(description="The sizes that the model was trained for.")
    precision: Literal["fp32", "bf16", "fp8"] = Field(description="Of the transformer's layers.")
    guidance: float = Field(description="Weight of the prompt where a request names none.")
    alpha: float = Field(description="How fast a style's lesser components fade where a request names none.")
    max_prompt_tokens: int = Field(description="A longer prompt is cut.")
    qualities: dict[str, str] = Field(description="What each `quality` leaves out; `exact` for nothing.")
    draws: VocabularyResponse | None = Field(
        description="Of a model of few words: what it draws, by names to use in prompts."
    )
    resident_bytes: int = Field(description="Memory of the weights.")
    alias_of: str | None = Field(description="Of an alias: the model that it stands for.")
    aliases: list[str] = Field(description="Its other names; `*` stands for any.")


class ModelListResponse(BaseModel):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[ModelResponse] = Field(description="The one model that is served, and its aliases.")


@router.get("/v1/models", responses=responses.LIST_MODELS)
async def list_models(context: ContextDep) -> ModelListResponse:
    """The one model, and each of its aliases by the name to ask for."""
    names = context.service.images.names
    listed = [names.served, *(alias for alias in names.aliases if alias != ANY_NAME)]
    return ModelListResponse(data=[_response(context.service, name) for name in dict.fromkeys(listed)])


@router.get("/v1/models/{model}", responses=responses.GET_MODEL)
async def get_model(
    model: Annotated[str, Path(description="Its name or an alias, the `id` in the list.", examples=["nano"])],
    context: ContextDep,
) -> ModelResponse:
    """The model, by a name that a request may give: also one with a style, which is not looked up."""
    context.service.images.names.style_of(model)
    return _response(context.service, model)


def _response(service: ReadyService, name: str) -> ModelResponse:
    generator = service.images.generator
    vocabulary = generator.vocabulary
    return ModelResponse(
        id=name,
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
        draws=None
        if vocabulary is None
        else VocabularyResponse(
            things=list(vocabulary.things),
            colours=list(vocabulary.colours),
            media=list(vocabulary.media),
            poses=list(vocabulary.poses),
        ),
        resident_bytes=generator.resident_bytes,
        alias_of=None if name == generator.name else generator.name,
        aliases=list(service.images.names.aliases),
    )
