"""The JSON that names styles: one, several mixed, or one for each region of an image."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from service.access.api_key import MAX_STRENGTH
from service.application.generation_request import MAX_WEIGHT, StyleMix, StyleTerm
from service.errors import InvalidRequest
from service.http.schemas.base import Incoming
from service.http.schemas.picture_input import PictureInput
from service.model.engine.types import Box
from service.styles.style_code import MAX_CODE_CHARS

MAX_REGIONS = 8
Share = Annotated[float, Field(ge=0, le=1)]


def _style_of_id(value: Any) -> Any:
    if not isinstance(value, str | dict | None):
        sentence = 'style must be a style ID, or an object such as {"id": "sty_...", "strength": 0.8}.'
        raise PydanticCustomError("unsupported_value", "{sentence}", {"sentence": sentence})
    return {"id": value} if isinstance(value, str) else value


def _box(sides: Any) -> Any:
    is_box = (
        isinstance(sides, list)
        and len(sides) == 4
        and all(isinstance(side, int | float) and not isinstance(side, bool) for side in sides)
        and 0 <= sides[0] < sides[2] <= 1
        and 0 <= sides[1] < sides[3] <= 1
    )
    if not is_box:
        sentence = (
            "A box is [left, top, right, bottom] in shares of the width and height, from 0 to 1, with left "
            "below right and top below bottom, such as [0, 0, 0.5, 1] for the left half."
        )
        raise PydanticCustomError("invalid_value", "{sentence}", {"sentence": sentence})
    return sides


BoxSides = Annotated[
    list[float],
    BeforeValidator(_box, json_schema_input_type=Annotated[list[Share], Field(min_length=4, max_length=4)]),
]


def box_of(sides: list[float] | None) -> Box | None:
    return None if sides is None else Box(*sides)


StyleReference = Annotated[
    str,
    Field(min_length=1, max_length=MAX_CODE_CHARS, description="A style ID or a style code."),
]
Strength = Annotated[
    float,
    Field(
        ge=0,
        le=MAX_STRENGTH,
        allow_inf_nan=False,
        description="Amount of style: 0 is the plain model, 1 the paper.",
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
    box: BoxSides | None = Field(
        default=None, description="The part of its picture to take the style from; all of it by default."
    )

    def to_mix(self, param: str) -> StyleMix:
        return StyleMix((StyleTerm(self.id, param=param, box=box_of(self.box)),), self.strength, self.alpha)


class WeightedChoice(Incoming):
    """A style in a mixture."""

    id: StyleReference
    weight: float = Field(
        default=1.0,
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        allow_inf_nan=False,
        description="Relative to the sum of the weights; a negative one leads away from the style.",
    )


StyleOrId = Annotated[StyleChoice, BeforeValidator(_style_of_id, json_schema_input_type=str | StyleChoice)]


class RegionStyle(Incoming):
    """A style in a part of the image."""

    id: StyleReference
    box: BoxSides | None = Field(
        default=None, description="The part of its picture to take the style from; all of it by default."
    )


def _region_style_of_id(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


class Region(Incoming):
    """A part of the image, and its style. Where regions overlap they share."""

    style: Annotated[
        RegionStyle, BeforeValidator(_region_style_of_id, json_schema_input_type=str | RegionStyle)
    ] = Field(description="A style ID or code, or an object with `id` and `box`.")
    box: BoxSides | None = Field(default=None, description="The part of the image; give this or `mask`.")
    mask: PictureInput | None = Field(
        default=None,
        description="A PNG that is transparent where the style goes: in base64, or in a form a file.",
    )
    strength: Strength = 1.0

    def to_term(self, param: str) -> StyleTerm:
        if (self.box is None) == (self.mask is None):
            raise InvalidRequest(
                f"{param} needs a box, such as [0, 0, 0.5, 1] for the left half, or a mask: one of the two.",
                param=param,
                code="conflicting_parameters" if self.box else "missing_required_parameter",
            )
        area = self.mask or box_of(self.box)
        return StyleTerm(self.style.id, self.strength, f"{param}.style", box_of(self.style.box), area)


def _few_regions(value: Any) -> Any:
    if isinstance(value, list) and not 1 <= len(value) <= MAX_REGIONS:
        sentence = f"regions has {len(value)} regions; an image may have 1 to {MAX_REGIONS}."
        raise PydanticCustomError("invalid_value", "{sentence}", {"sentence": sentence})
    return value


Regions = Annotated[list[Region], BeforeValidator(_few_regions), Field(min_length=1, max_length=MAX_REGIONS)]
