"""The body of a request for edits: JSON with pictures in base64, or a form with files, once it is read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from service.application.generation_request import EditRequest
from service.errors import InvalidRequest
from service.http.schemas.images import IGNORED_DESCRIPTION, ImageBody
from service.http.schemas.picture_input import PictureInput

MAX_INPUT_IMAGES = 16  # OpenAI's bound


def _as_list(value: Any) -> Any:
    """Refuses too many here: of a million that are not pictures each would be a mistake to collect."""
    pictures = value if isinstance(value, list) else [value]
    if not 1 <= len(pictures) <= MAX_INPUT_IMAGES:
        sentence = f"An edit takes 1 to {MAX_INPUT_IMAGES} images, not {len(pictures)}."
        raise PydanticCustomError("invalid_value", "{sentence}", {"sentence": sentence})
    return pictures


class EditBody(ImageBody):
    """OpenAI's image edit request, with `structure` and all that is added to generations.

    A field that is null counts as left out.
    """

    image: Annotated[
        list[PictureInput],
        BeforeValidator(_as_list, json_schema_input_type=str | list[str | dict[str, str]]),
    ] = Field(
        min_length=1,
        max_length=MAX_INPUT_IMAGES,
        description="The picture to edit, a PNG, JPEG, WebP or still GIF; in JSON in base64 or as a `data:` "
        "URL. Of several the first is edited, and the others are its style. `images` is the same.",
    )
    prompt: str | None = Field(
        default=None,
        min_length=1,
        description="What to draw. Without it the picture is restyled as it is.",
    )
    mask: PictureInput | None = Field(
        default=None,
        description="A PNG of the picture's size, transparent where the picture may change. Everything else "
        "stays as it is.",
    )
    structure: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much of the picture stays. By default 0.75 with a style, and without one 0.5, or 0 "
        "inside a mask.",
    )
    input_fidelity: Literal["high", "low"] | None = Field(
        default=None,
        description="OpenAI's word: `low` is the default structure, `high` half-way from it to 1.",
    )
    markup: PictureInput | None = Field(default=None, description=IGNORED_DESCRIPTION)

    @model_validator(mode="before")
    @classmethod
    def _read_images(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("images") is None:
            return values
        if values.get("image") is not None:
            raise InvalidRequest(
                "image and images are the same field: give one of them.",
                param="images",
                code="conflicting_parameters",
            )
        return {name: value for name, value in values.items() if name != "images"} | {
            "image": values["images"]
        }

    def to_edit(self) -> EditRequest:
        if self.structure is not None and self.input_fidelity is not None:
            raise InvalidRequest(
                "structure and input_fidelity say the same: give one of them.",
                param="input_fidelity",
                code="conflicting_parameters",
            )
        picture, *style_pictures = self.image
        return EditRequest(
            picture=picture,
            mask=self.mask,
            structure=self.structure,
            is_faithful=self.input_fidelity == "high",
            style_pictures=tuple(style_pictures),
        )
