"""The JSON of image generation, with every limit that does not depend on the model or the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from service.application.generation_request import (
    MAX_IMAGES,
    MAX_SEED,
    GenerationRequest,
    StyleMix,
    StyleTerm,
)
from service.batching.priority import Priority
from service.errors import InvalidRequest
from service.http.schemas.base import Incoming
from service.media.images import OutputFormat
from service.model.engine.quality import Quality
from service.model.engine.types import Drawing
from service.styles.style_code import MAX_CODE_CHARS

MAX_MIXED_STYLES = 10


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


StyleReference = Annotated[
    str,
    Field(min_length=1, max_length=MAX_CODE_CHARS, description="A style ID or a style code."),
]
Strength = Annotated[
    float,
    Field(
        ge=0, le=1.5, allow_inf_nan=False, description="Amount of style: 0 is the plain model, 1 the paper."
    ),
]
Alpha = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class StyleChoice(Incoming):
    """A style and how strongly it is applied."""

    id: StyleReference
    strength: Strength = 1.0
    alpha: Alpha | None = Field(
        default=None, description="How fast its lesser components fade; the model's own by default."
    )

    def to_mix(self, param: str) -> StyleMix:
        return StyleMix((StyleTerm(self.id, param=param),), self.strength, self.alpha)


class WeightedChoice(Incoming):
    """A style in a mixture."""

    id: StyleReference
    weight: float = Field(
        default=1.0,
        ge=-10,
        le=10,
        allow_inf_nan=False,
        description="Relative to the sum of the weights; a negative one leads away from the style.",
    )


StyleOrId = Annotated[StyleChoice, BeforeValidator(_style_of_id, json_schema_input_type=str | StyleChoice)]


class GenerationBody(Incoming):
    """OpenAI's image generation request, with `style`, `seed`, `negative_prompt` and `guidance` added."""

    prompt: str = Field(
        min_length=1,
        description="What to draw. At most 4000 characters, unless the service is set otherwise; what is "
        "beyond the model's `max_prompt_tokens` is cut, with a warning.",
    )
    model: str | None = Field(default=None, description="Name of the model served, as in `/v1/models`.")
    n: int = Field(
        default=1, ge=1, le=MAX_IMAGES, description="Number of images; image i is drawn with seed + i."
    )
    size: str = Field(default="auto", max_length=20, description="`WIDTHxHEIGHT`, or `auto`.")
    style: StyleOrId | None = Field(
        default=None, description="A style ID or code, or the style with its strength and alpha."
    )
    styles_each: list[StyleOrId | None] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_IMAGES,
        description="Instead of `style`: `n` images in each of these styles, all of one seed side by side. "
        "They share the work on the prompt. `null` is the image without a style.",
    )
    styles: list[WeightedChoice] | None = Field(
        default=None, min_length=1, max_length=MAX_MIXED_STYLES, description="Instead of `style`: a mixture."
    )
    strength: Strength | None = Field(default=None, description="Of `styles`; 1 by default.")
    alpha: Alpha | None = Field(default=None, description="Of `styles`: as in `style`.")
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Same seed, same image; chosen and returned by default."
    )
    negative_prompt: str = Field(default="", description="What to avoid; bounded as the prompt is.")
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=30,
        allow_inf_nan=False,
        description="Weight of the prompt; the model's own by default.",
    )
    priority: Literal["normal", "low"] = Field(
        default="normal", description="`low` yields to others for a while: for work that is not urgent."
    )
    response_format: Annotated[Literal["b64_json"], BeforeValidator(_only_base64)] = Field(
        default="b64_json", description="Images are in the response: they are not kept, so none has a URL."
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        default=None, description="By default what `Accept` names, or `png`."
    )
    output_compression: int | None = Field(
        default=None, ge=0, le=100, description="Quality of a JPEG or WebP in percent; 90 by default."
    )
    user: str | None = Field(default=None, max_length=512, description="Accepted, not used.")
    quality: Literal["auto", "high", "medium", "low"] = Field(
        default="auto",
        description="`high`, as `auto`, is exact; `medium` and `low` are faster, see `/v1/models`.",
    )
    background: Literal["auto", "opaque"] = Field(default="auto", description="Images are opaque.")
    moderation: Literal["auto"] = Field(default="auto", description="There is no moderation to choose.")
    stream: bool = Field(default=False, description="Respond with server-sent events.")
    partial_images: int | None = Field(
        default=None, ge=0, le=3, description="Previews of each image, streamed before it."
    )

    def to_request(self, output_format: OutputFormat, deadline: float | None) -> GenerationRequest:
        """InvalidRequest when fields contradict each other."""
        self._check_conflicts()
        if self.styles is not None:
            terms = [
                StyleTerm(style.id, style.weight, f"styles.{index}.id")
                for index, style in enumerate(self.styles)
            ]
            strength = 1.0 if self.strength is None else self.strength
            styles: list[StyleMix | None] = [StyleMix(tuple(terms), strength, self.alpha)]
        elif self.styles_each is not None:
            styles = [
                None if style is None else style.to_mix(f"styles_each.{index}")
                for index, style in enumerate(self.styles_each)
            ]
        else:
            styles = [None if self.style is None else self.style.to_mix("style")]
        return GenerationRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            model=self.model,
            size=self.size,
            styles=tuple(styles),
            num_images=self.n,
            num_previews=self.partial_images or 0,
            seed=self.seed,
            guidance=self.guidance,
            quality=Quality.HIGH if self.quality == "auto" else Quality(self.quality),
            output_format=output_format,
            output_compression=self.output_compression,
            priority=Priority(self.priority),
            deadline=deadline,
        )

    def _check_conflicts(self) -> None:
        if self.partial_images and not self.stream:
            raise InvalidRequest(
                "partial_images come while an image is streamed: set stream to true, or leave them out.",
                param="partial_images",
            )
        given = [name for name in ("styles", "styles_each", "style") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidRequest(
                "style, styles (a mixture) and styles_each (images in each) exclude each other: give one.",
                param=given[0],
                code="conflicting_parameters",
            )
        for name in ("strength", "alpha"):
            if self.styles is None and getattr(self, name) is not None:
                raise InvalidRequest(
                    f'{name} goes with styles; for one style put it inside, as {{"id": ..., "{name}": ...}}.',
                    param=name,
                    code="conflicting_parameters",
                )


AnsweredQuality = Annotated[
    Literal["high", "medium", "low"],
    Field(description="The quality used: `high` also where the model has nothing faster."),
]


class DrawnImage(BaseModel):
    """What a response and both events say of an image."""

    size: str = Field(description="`WIDTHxHEIGHT`.")
    quality: AnsweredQuality
    background: Literal["opaque"] = Field(default="opaque", description="Images are opaque.")
    output_format: Literal["png", "jpeg", "webp"] = Field(description="Of the image file.")
    style: StyleChoice | None = Field(default=None, description="The one style, with the values used.")
    styles: list[WeightedChoice] | None = Field(
        default=None, description="Of a mixture: with the weights used, whose sum is 1."
    )
    strength: float | None = Field(default=None, description="Of a mixture.")
    alpha: float | None = Field(default=None, description="Of a mixture.")


class GeneratedImage(BaseModel):
    b64_json: str = Field(description="The image file, in base64.")
    seed: int = Field(description="The seed that made this image.")
    style: StyleChoice | None = Field(default=None, description="Its style, when there were `styles_each`.")


class UsageDetails(BaseModel):
    text_tokens: int = Field(description="Of the prompts.")
    image_tokens: int = Field(default=0, description="Always 0: a style costs no tokens.")


class Usage(BaseModel):
    """OpenAI's count of tokens: those of the prompts, and those that the images are made of."""

    input_tokens: int = Field(description="Of the prompts, negative ones too.")
    input_tokens_details: UsageDetails = Field(description="The same by kind.")
    output_tokens: int = Field(description="Of the images, over all steps.")
    total_tokens: int = Field(description="Both together.")

    @classmethod
    def of(cls, drawings: Sequence[Drawing]) -> Usage:
        num_text = sum(drawing.num_text_tokens for drawing in drawings)
        num_image = sum(drawing.num_image_tokens for drawing in drawings)
        return cls(
            input_tokens=num_text,
            input_tokens_details=UsageDetails(text_tokens=num_text),
            output_tokens=num_image,
            total_tokens=num_text + num_image,
        )


Warnings = Annotated[
    list[str] | None, Field(description="What was done other than requested, such as a cut prompt.")
]


class GenerationResponse(DrawnImage):
    created: int = Field(description="Seconds since 1970.")
    data: list[GeneratedImage] = Field(description="The images: seed by seed, style by style within.")
    model: str = Field(description="The model that drew them.")
    usage: Usage = Field(description="Tokens, of all images together.")
    warnings: Warnings = None


class ImageEvent(DrawnImage):
    """The fields of both events."""

    b64_json: str = Field(description="The image file, in base64.")
    created_at: int = Field(description="Seconds since 1970.")
    image_index: int = Field(description="Which image of the request, from 0.")
    seed: int = Field(description="The seed that makes this image.")
    step: int = Field(description="The step after which the image looks like this, from 1.")
    num_steps: int = Field(description="How many steps the image takes.")


class PartialImageEvent(ImageEvent):
    type: Literal["image_generation.partial_image"] = Field(
        default="image_generation.partial_image", description="The event's name."
    )
    partial_image_index: int = Field(description="Which partial image of this image, from 0.")
    partial_size: str = Field(description="Size of the partial image itself; earlier ones are smaller.")


class CompletedEvent(ImageEvent):
    type: Literal["image_generation.completed"] = Field(
        default="image_generation.completed", description="The event's name."
    )
    model: str = Field(description="The model that drew it.")
    usage: Usage = Field(description="Tokens of this image.")
    warnings: Warnings = None
