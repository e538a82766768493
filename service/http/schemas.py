"""The JSON of requests and responses, with every limit that does not depend on the model or the settings."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_SEED = 2**32 - 1
MAX_IMAGES = 10
MAX_NAME_CHARS = 200
# Bound of an answer that repeats a name the client chose.
MAX_SHOWN_CHARS = 60


class Incoming(BaseModel):
    """A body or query of which every field is known: others are refused by name, and no type is guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, values: Any) -> Any:
        known = list(cls.model_fields)
        for name in values if isinstance(values, dict) else ():
            if name not in known:
                raise unknown_field(name, known)
        return values


def unknown_field(name: str, known: list[str]) -> PydanticCustomError:
    name = name.encode(errors="backslashreplace").decode()  # half a surrogate pair is no text to answer with
    near = get_close_matches(name, known, n=1)
    instead = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
    shown = name if len(name) <= MAX_SHOWN_CHARS else f"{name[:MAX_SHOWN_CHARS]}..."
    context = {"name": shown, "instead": instead}
    return PydanticCustomError("unknown_parameter", "There is no parameter {name}. {instead}", context)


def _style_of_id(value: Any) -> Any:
    if not isinstance(value, str | dict | None):
        sentence = 'style must be a style ID, or an object such as {"id": "sty_...", "strength": 0.8}.'
        raise PydanticCustomError("unsupported_value", "{sentence}", {"sentence": sentence})
    return {"id": value} if isinstance(value, str) else value


def _only_base64(value: Any) -> Any:
    if value == "url":
        sentence = "response_format cannot be 'url': images are not kept, so there is none. Use 'b64_json'."
        raise PydanticCustomError("unsupported_value", "{sentence}", {"sentence": sentence})
    return value


def _not_streamed(value: Any) -> Any:
    if value is True:
        sentence = "stream cannot be true: images are answered whole. Leave it out."
        raise PydanticCustomError("unsupported_value", "{sentence}", {"sentence": sentence})
    return value


class StyleChoice(Incoming):
    """A style and how much of it."""

    id: str = Field(min_length=1, max_length=500, description="ID of an uploaded style, `sty_...`.")
    strength: float = Field(
        default=1.0,
        ge=0,
        le=1.5,
        allow_inf_nan=False,
        description="Amount of style: 0 is the plain model, 1 the paper.",
    )
    alpha: float | None = Field(
        default=None,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="Decay over the singular values of the style feature; the model's own when left out.",
    )


class GenerationRequest(Incoming):
    """OpenAI's image generation request, with `style`, `seed`, `negative_prompt` and `guidance` added."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a star", "style": "sty_...", "seed": 7}]},
    )

    prompt: str = Field(min_length=1, description="What to draw.")
    model: str | None = Field(
        default=None, description="Name of the model that is served, as in `/v1/models`."
    )
    n: int = Field(
        default=1, ge=1, le=MAX_IMAGES, description="Number of images; image i is drawn with seed + i."
    )
    size: str = Field(
        default="auto", max_length=20, description="`WIDTHxHEIGHT` among the model's sizes, or `auto`."
    )
    style: (
        Annotated[StyleChoice, BeforeValidator(_style_of_id, json_schema_input_type=str | StyleChoice)] | None
    ) = Field(default=None, description="A style ID, or the style with its strength and alpha.")
    seed: int | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Same seed, same image. One is drawn and returned when left out.",
    )
    negative_prompt: str = Field(default="", description="What to keep away from.")
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=30,
        allow_inf_nan=False,
        description="Weight of the prompt; the model's own when left out.",
    )
    response_format: Annotated[Literal["b64_json"], BeforeValidator(_only_base64)] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        default=None, description="`png` when left out, or what `Accept` asks for."
    )
    output_compression: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Quality of a JPEG or WebP image in percent; 90 when left out.",
    )
    user: str | None = Field(
        default=None, max_length=512, description="Accepted for OpenAI's clients; not used."
    )
    quality: Literal["auto", "high"] = Field(default="auto", description="There is one quality.")
    background: Literal["auto", "opaque"] = Field(default="auto", description="Images are opaque.")
    moderation: Literal["auto"] = Field(default="auto", description="There is no moderation to choose.")
    stream: Annotated[Literal[False], BeforeValidator(_not_streamed)] = False


class GeneratedImage(BaseModel):
    b64_json: str = Field(description="The image file, in base64.")
    seed: int = Field(description="The seed that made this image.")


class GenerationResponse(BaseModel):
    created: int = Field(description="Seconds since 1970.")
    data: list[GeneratedImage]
    model: str
    size: str
    output_format: Literal["png", "jpeg", "webp"]
    style: StyleChoice | None = None
    warnings: list[str] | None = Field(
        default=None, description="What was done other than asked, such as a cut prompt."
    )


class StyleResponse(BaseModel):
    id: str
    object: Literal["style"] = "style"
    created: int = Field(description="Seconds since 1970.")
    name: str | None
    num_images: int
    image_width: int
    image_height: int


class StyleQuery(Incoming):
    # Text is all that a query holds, so numbers are read from it.
    model_config = ConfigDict(strict=False)

    limit: int = Field(default=20, ge=1, le=100, description="Most styles in one answer.")
    after: str | None = Field(default=None, max_length=500, description="The `last_id` of the answer before.")
    order: Literal["asc", "desc"] = Field(
        default="desc", description="By time of creation; newest first by default."
    )


class StyleListResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[StyleResponse]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StyleDeletedResponse(BaseModel):
    id: str
    object: Literal["style.deleted"] = "style.deleted"
    deleted: Literal[True] = True


class LiveResponse(BaseModel):
    status: Literal["live"] = "live"


class ReadyResponse(BaseModel):
    status: Literal["ready"] = "ready"
    model: Literal["ready"] = "ready"
    store: Literal["ready", "unavailable"] = Field(
        description="`unavailable` leaves styles in memory working."
    )


class VersionResponse(BaseModel):
    version: str


class ModelResponse(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    fingerprint: str = Field(description="16 hex characters over the configuration and the image tokenizer.")
    sizes: list[str]
    default_size: str
    guidance: float = Field(description="Weight of the prompt where a request names none.")
    alpha: float = Field(description="How fast a style's lesser components fade where a request names none.")
    max_prompt_tokens: int = Field(description="A longer prompt is cut.")
    resident_bytes: int = Field(description="Memory of the weights.")


class ModelListResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelResponse]


class Problem(BaseModel):
    message: str = Field(description="What was wrong, and what would be right.")
    type: str
    param: str | None = Field(description="The field it is about; a dot between levels.")
    code: str = Field(description="Stable; see the list of codes.")


class ProblemResponse(BaseModel):
    error: Problem
