"""The JSON of the events of a streamed generation: OpenAI's fields, and ours after them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from service.http.schemas import AnsweredQuality, StyleChoice, Usage, WeightedChoice


class ImageEvent(BaseModel):
    """What both events say of an image."""

    b64_json: str = Field(description="The image file, in base64.")
    created_at: int = Field(description="Seconds since 1970.")
    size: str = Field(description="Size of the image that is being drawn, `WIDTHxHEIGHT`.")
    quality: AnsweredQuality
    background: Literal["opaque"] = Field(default="opaque", description="Images are opaque.")
    output_format: Literal["png", "jpeg", "webp"] = Field(description="Of the image file.")
    image_index: int = Field(description="Which image of the request, from 0.")
    seed: int = Field(description="The seed that makes this image.")
    style: StyleChoice | None = Field(default=None, description="Its style, where it has one.")
    styles: list[WeightedChoice] | None = Field(
        default=None, description="Of a mixture, with the weights as they were used: their sum is 1."
    )
    strength: float | None = Field(default=None, description="Of the mixture.")
    alpha: float | None = Field(default=None, description="Of the mixture.")
    step: int = Field(description="The step after which the image looks like this, from 1.")
    num_steps: int = Field(description="How many steps the image takes.")


class PartialImageEvent(ImageEvent):
    type: Literal["image_generation.partial_image"] = Field(
        default="image_generation.partial_image", description="The event's name."
    )
    partial_image_index: int = Field(description="Which partial image of this image, from 0.")
    partial_size: str = Field(description="Size of the partial image itself; it is the smaller the earlier.")


class CompletedEvent(ImageEvent):
    type: Literal["image_generation.completed"] = Field(
        default="image_generation.completed", description="The event's name."
    )
    model: str = Field(description="The model that drew it.")
    usage: Usage = Field(description="Tokens of this image.")
    warnings: list[str] | None = Field(
        default=None, description="What was done other than asked, such as a cut prompt."
    )
