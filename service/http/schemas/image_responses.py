"""The JSON of responses with images, and of the events of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.http.schemas.style_choices import StyleChoice, WeightedChoice
from service.model.engine.types import Drawing

AnsweredQuality = Annotated[
    Literal["high", "medium", "low"],
    Field(description="The quality used: `high` also where the model has nothing faster."),
]


class RegionUsed(BaseModel):
    """A region as it was drawn."""

    style: str = Field(description="The style ID or style code.")
    strength: float = Field(description="Amount of the style there.")
    box: list[float] | None = Field(default=None, description="Where, unless it was a mask.")


class DrawnImage(BaseModel):
    """What a response and both events say of an image."""

    size: str = Field(description="`WIDTHxHEIGHT`, of the image file.")
    quality: AnsweredQuality
    background: Literal["opaque"] = Field(default="opaque", description="Images are opaque.")
    output_format: Literal["png", "jpeg", "webp"] = Field(description="Of the image file.")
    style: StyleChoice | None = Field(default=None, description="The one style, with the values used.")
    styles: list[WeightedChoice] | None = Field(
        default=None, description="Of a mixture: with the weights used, whose sum is 1."
    )
    strength: float | None = Field(default=None, description="Of a mixture.")
    alpha: float | None = Field(default=None, description="Of a mixture, and of regions.")
    regions: list[RegionUsed] | None = Field(default=None, description="Of an image with regions.")
    structure: float | None = Field(default=None, description="Of an edit: how much of its picture stays.")


RevisedPrompt = Annotated[
    str | None, Field(description="The prompt with the `prompt_suffix` of its style, where there is one.")
]


class GeneratedImage(BaseModel):
    b64_json: str | None = Field(default=None, description="The image file, in base64.")
    url: str | None = Field(default=None, description="In its place, for `response_format` `url`: `data:`.")
    seed: int = Field(description="The seed that made this image.")
    style: StyleChoice | None = Field(default=None, description="Its style, when there were `styles_each`.")
    revised_prompt: RevisedPrompt = None


class UsageDetails(BaseModel):
    text_tokens: int = Field(description="Of the prompts.")
    image_tokens: int = Field(default=0, description="Always 0: pictures cost no tokens.")


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
    revised_prompt: RevisedPrompt = None


class PartialImage(ImageEvent):
    partial_image_index: int = Field(description="Which partial image of this image, from 0.")
    partial_size: str = Field(
        description="Size of the partial image itself; earlier ones are smaller, unless resized."
    )


class CompletedImage(ImageEvent):
    model: str = Field(description="The model that drew it.")
    usage: Usage = Field(description="Tokens of this image.")
    warnings: Warnings = None
    timings: dict[str, float] | None = Field(
        default=None,
        description="In the last event: the milliseconds of each stage of the request so far, and `total`. "
        "Other responses have them in `Server-Timing`, which a stream sends before it begins to draw.",
    )


class PartialImageEvent(PartialImage):
    type: Literal["image_generation.partial_image"] = Field(
        default="image_generation.partial_image", description="The event's name."
    )


class CompletedEvent(CompletedImage):
    type: Literal["image_generation.completed"] = Field(
        default="image_generation.completed", description="The event's name."
    )


class EditPartialImageEvent(PartialImage):
    type: Literal["image_edit.partial_image"] = Field(
        default="image_edit.partial_image", description="The event's name."
    )


class EditCompletedEvent(CompletedImage):
    type: Literal["image_edit.completed"] = Field(
        default="image_edit.completed", description="The event's name."
    )


@dataclass(frozen=True, slots=True)
class Events:
    """The kinds of events of a stream of images."""

    partial: type[PartialImageEvent | EditPartialImageEvent]
    completed: type[CompletedEvent | EditCompletedEvent]


GENERATION_EVENTS = Events(PartialImageEvent, CompletedEvent)
EDIT_EVENTS = Events(EditPartialImageEvent, EditCompletedEvent)
