"""The JSON of a request for images, with every limit that does not depend on the model or the settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.application.generation_request import (
    MAX_IMAGES,
    MAX_MIXED_STYLES,
    MAX_SEED,
    EditRequest,
    GenerationRequest,
    StyleMix,
    StyleTerm,
)
from service.batching.priority import Priority
from service.errors import InvalidRequest
from service.http.schemas.base import Incoming, optional_fields_may_be_null, without_nulls
from service.http.schemas.style_choices import (
    Alpha,
    Regions,
    Strength,
    StyleChoice,
    StyleOrId,
    WeightedChoice,
)
from service.media.images import OutputFormat
from service.model.engine.quality import Quality
from service.webhooks.target import MAX_URL_CHARS

# What OpenAI's retired models took for a style: nothing that a style ID or a style code could be.
LOOKS = ("vivid", "natural")
# Fields that OpenAI defines and that change nothing here; each is answered with a warning.
IGNORED = (
    "user",
    "safety_identifier",
    "complexity",
    "frame_count",
    "frame_duration_ms",
    "svg",
    "markup",
)
IGNORED_DESCRIPTION = "Accepted, not used."


def _no_transparency(value: Any) -> Any:
    if value == "transparent":
        sentence = "background cannot be 'transparent': images are opaque. Leave it out."
        raise PydanticCustomError("unsupported_value", "{sentence}", {"sentence": sentence})
    return value


def _no_animation(value: Any) -> Any:
    if value in ("gif", "svg"):
        sentence = f"output_format cannot be '{value}'. Use 'png', 'jpeg' or 'webp'."
        raise PydanticCustomError("unsupported_value", "{sentence}", {"sentence": sentence})
    return value


class WebhookBody(Incoming):
    """Where a job tells that it has ended, signed as Standard Webhooks says."""

    url: str = Field(min_length=1, max_length=MAX_URL_CHARS, description="An https:// address.")
    secret: str | None = Field(
        default=None,
        max_length=200,
        description="What signs the requests: `whsec_` and 24 to 64 random bytes in base64. By default "
        "that of the API key, where the service has one.",
    )


class ImageBody(Incoming):
    """What generations and edits have in common. A field that is null counts as left out."""

    model_config = ConfigDict(json_schema_extra=optional_fields_may_be_null)

    prompt: str | None = Field(default=None, description="What to draw.")
    model: str | None = Field(
        default=None,
        description="Name of the model served or an alias of it, as in `/v1/models`; `nano@sty_...:0.7` "
        "names a style and its strength, too, and `nano@sty_...:2+sty_...` a mixture.",
    )
    n: int = Field(
        default=1, ge=1, le=MAX_IMAGES, description="Number of images; image i is drawn with seed + i."
    )
    size: str = Field(
        default="auto",
        max_length=20,
        description="`WIDTHxHEIGHT`, or `auto`. One that is not enabled is drawn at the nearest and resized, "
        "with a warning, unless the service is set to refuse it.",
    )
    style: StyleOrId | None = Field(
        default=None,
        description="A style ID or code, or the style with its strength and alpha. By default that of the "
        "model's name, or else of the API key. OpenAI's `vivid` and `natural` are ignored, with a warning.",
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
    regions: Regions | None = Field(
        default=None, description="Instead of `style`: a style for each of up to eight parts of the image."
    )
    strength: Strength | None = Field(default=None, description="Of `styles`; 1 by default.")
    alpha: Alpha | None = Field(default=None, description="Of `styles` and `regions`: as in `style`.")
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
    response_format: Literal["b64_json", "url"] = Field(
        default="b64_json",
        description="`url` gives a `data:` URL with the image in it: images are not kept.",
    )
    output_format: Annotated[
        Literal["png", "jpeg", "webp"] | None,
        BeforeValidator(_no_animation, json_schema_input_type=Literal["png", "jpeg", "webp"] | None),
    ] = Field(default=None, description="By default what `Accept` names, or `png`.")
    output_compression: int | None = Field(
        default=None, ge=0, le=100, description="Quality of a JPEG or WebP in percent; 90 by default."
    )
    quality: Literal["auto", "high", "medium", "low", "standard", "hd", "xhigh", "max"] = Field(
        default="auto",
        description="`high`, as `auto`, is exact; `medium` and `low` are faster, see `/v1/models`. The "
        "others are `high`, with a warning.",
    )
    background: Annotated[
        Literal["auto", "opaque"],
        BeforeValidator(_no_transparency, json_schema_input_type=Literal["auto", "opaque"]),
    ] = Field(default="auto", description="Images are opaque.")
    webhook: WebhookBody | None = Field(
        default=None,
        description="Of a job, with `Prefer: respond-async`: is told when it has ended. By default that of "
        "the API key.",
    )
    moderation: Literal["auto", "low"] = Field(
        default="auto", description="There is no moderation to choose."
    )
    stream: bool = Field(default=False, description="Respond with server-sent events.")
    partial_images: int | None = Field(
        default=None, ge=0, le=3, description="Previews of each image, streamed before it."
    )
    user: str | None = Field(default=None, max_length=512, description=IGNORED_DESCRIPTION)
    safety_identifier: str | None = Field(default=None, max_length=512, description=IGNORED_DESCRIPTION)
    complexity: Literal["low", "medium", "high"] | None = Field(default=None, description=IGNORED_DESCRIPTION)
    frame_count: int | None = Field(default=None, ge=2, le=16, description=IGNORED_DESCRIPTION)
    frame_duration_ms: int | None = Field(default=None, ge=0, description=IGNORED_DESCRIPTION)
    svg: dict[str, Any] | None = Field(default=None, description=IGNORED_DESCRIPTION)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, values: Any) -> Any:
        optional = [name for name, field in cls.model_fields.items() if not field.is_required()]
        return without_nulls(values, optional)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is accepted for OpenAI's sake and means something else here, or nothing."""
        found = [f"{name} is ignored" for name in IGNORED if getattr(self, name, None) is not None]
        if self.style is not None and self._style is None:
            found.append(f"style {self.style.id} is ignored: it is no style ID")
        if self.quality in ("standard", "hd", "xhigh", "max"):
            found.append(f"quality {self.quality} is drawn as high")
        if self.webhook is not None:
            found.append("webhook is ignored: it needs Prefer: respond-async")
        if self.moderation == "low":
            found.append("moderation is ignored: there is none")
        if self.partial_images and not self.stream:
            found.append("partial_images are ignored: they need stream")
        if self.response_format == "url" and self.stream:
            found.append("response_format url is ignored: events carry b64_json")
        return tuple(found)

    def to_request(self, output_format: OutputFormat, deadline: float | None) -> GenerationRequest:
        """InvalidRequest when fields contradict each other."""
        self._check_conflicts()
        is_high = self.quality not in (Quality.MEDIUM, Quality.LOW)
        return GenerationRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            edit=self.to_edit(),
            model=self.model,
            size=self.size,
            styles=self._styles(),
            num_images=self.n,
            num_previews=self.partial_images or 0,
            seed=self.seed,
            guidance=self.guidance,
            quality=Quality.HIGH if is_high else Quality(self.quality),
            output_format=output_format,
            output_compression=self.output_compression,
            priority=Priority(self.priority),
            deadline=deadline,
        )

    def to_edit(self) -> EditRequest | None:
        """None where no picture is edited."""
        return None

    def _styles(self) -> tuple[StyleMix | None, ...] | None:
        """None when the body names no style."""
        if self.regions is not None:
            terms = [region.to_term(f"regions.{index}") for index, region in enumerate(self.regions)]
            return (StyleMix(tuple(terms), alpha=self.alpha),)
        if self.styles is not None:
            mixed = [
                StyleTerm(style.id, style.weight, f"styles.{index}.id")
                for index, style in enumerate(self.styles)
            ]
            strength = 1.0 if self.strength is None else self.strength
            return (StyleMix(tuple(mixed), strength, self.alpha),)
        if self.styles_each is not None:
            return tuple(
                None if style is None else style.to_mix(f"styles_each.{index}")
                for index, style in enumerate(self.styles_each)
            )
        return None if self._style is None else (self._style.to_mix("style"),)

    @property
    def _style(self) -> StyleChoice | None:
        """The one style, unless it is a look."""
        return None if self.style is None or self.style.id in LOOKS else self.style

    def _check_conflicts(self) -> None:
        given = [name for name in ("styles", "styles_each", "regions") if getattr(self, name) is not None]
        if self._style is not None:
            given.append("style")
        if len(given) > 1:
            raise InvalidRequest(
                "style, styles (a mixture), styles_each (images in each) and regions (a style in each) "
                "exclude each other: give one.",
                param=given[0],
                code="conflicting_parameters",
            )
        for name in ("strength", "alpha"):
            is_used = self.styles is not None or (self.regions is not None and name == "alpha")
            if not is_used and getattr(self, name) is not None:
                raise InvalidRequest(
                    f'{name} goes with styles; for one style put it inside, as {{"id": ..., "{name}": ...}}.',
                    param=name,
                    code="conflicting_parameters",
                )


class GenerationBody(ImageBody):
    """OpenAI's image generation request, with `style`, `seed`, `negative_prompt` and `guidance` added.

    A field that is null counts as left out.
    """

    prompt: str = Field(
        min_length=1,
        description="What to draw. At most 32000 characters, unless the service is set otherwise; what is "
        "beyond the model's `max_prompt_tokens` is cut, with a warning.",
    )
