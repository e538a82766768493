"""The JSON of styles, with every limit that does not depend on the model or the settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from service.application.generation_request import MAX_SEED
from service.http.schemas.base import Incoming
from service.storage.schema import MAX_PICTURES
from service.styles.record import MAX_NAME_CHARS, MAX_SUFFIX_CHARS, StyleText, hidden_character
from service.styles.style_code import MAX_CODE_CHARS

# OpenAI's bounds of metadata.
MAX_METADATA, MAX_METADATA_NAME_CHARS, MAX_METADATA_CHARS = 16, 64, 512
METADATA_SENTENCE = (
    f"metadata must be an object of up to {MAX_METADATA} texts of up to {MAX_METADATA_CHARS} characters, "
    f"under names of 1 to {MAX_METADATA_NAME_CHARS} characters."
)
METADATA_DESCRIPTION = "Texts of your own under names of your own."
NAME_DESCRIPTION = "A name for people; two styles may share one."
SUFFIX_DESCRIPTION = (
    "Words that go to the end of each prompt that is drawn in the style, after a comma, such as "
    "`in watercolor painting style`."
)


def hidden_sentence(field: str, character: str) -> str:
    return (
        f"{field} has the character {character}, which is not shown or changes how others are shown. Leave "
        "it out."
    )


def _without_hidden(text: str, info: ValidationInfo) -> str:
    character = hidden_character(text)
    if character is not None:
        sentence = hidden_sentence(str(info.field_name), character)
        raise PydanticCustomError("invalid_value", "{sentence}", {"sentence": sentence})
    return text


# Of one line, with a character that is neither blank nor hidden.
_HIDDEN = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_LINE = {"pattern": rf"^[^{_HIDDEN}]*[^{_HIDDEN}\s][^{_HIDDEN}]*$"}
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME_CHARS),
    AfterValidator(_without_hidden),
    Field(json_schema_extra=_LINE),
]
PromptSuffix = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_SUFFIX_CHARS),
    AfterValidator(_without_hidden),
    Field(json_schema_extra=_LINE),
]


def hidden_in_metadata(metadata: dict[str, str]) -> str | None:
    """The sentence about a hidden character in a name, or in a text, which may have line breaks."""
    for name, text in metadata.items():
        if (character := hidden_character(name)) is not None:
            return hidden_sentence("A name in metadata", character)
        if (character := hidden_character(text, may_break=True)) is not None:
            return hidden_sentence(f"metadata.{name}", character)
    return None


def is_metadata(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_METADATA
        and all(isinstance(key, str) and 1 <= len(key) <= MAX_METADATA_NAME_CHARS for key in value)
        and all(isinstance(text, str) and len(text) <= MAX_METADATA_CHARS for text in value.values())
    )


def _checked_metadata(value: Any) -> Any:
    if value is not None and not is_metadata(value):
        raise PydanticCustomError("unsupported_value", "{sentence}", {"sentence": METADATA_SENTENCE})
    if value is not None and (sentence := hidden_in_metadata(value)) is not None:
        raise PydanticCustomError("invalid_value", "{sentence}", {"sentence": sentence})
    return value


Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_METADATA_NAME_CHARS)],
        Annotated[str, StringConstraints(max_length=MAX_METADATA_CHARS)],
    ],
    Field(max_length=MAX_METADATA),
]


class Named(Incoming):
    """The fields of every body that describes a style."""

    name: Name | None = Field(default=None, description=NAME_DESCRIPTION)
    metadata: Annotated[Metadata | None, BeforeValidator(_checked_metadata)] = Field(
        default=None, description=METADATA_DESCRIPTION
    )
    prompt_suffix: PromptSuffix | None = Field(default=None, description=SUFFIX_DESCRIPTION)


class StyleForm(BaseModel):
    """For the OpenAPI document alone."""

    model_config = ConfigDict(extra="forbid")

    image: list[bytes] = Field(
        min_length=1,
        max_length=MAX_PICTURES,
        description="PNG, JPEG, WebP or a still GIF, detected from content. Several files become one style, "
        "their mean. At least 16 pixels a side; all files together at most 10 MiB and 100 million pixels, "
        "and each at most 50 million, unless the service is set otherwise.",
    )
    name: Name = Field(default_factory=str, description=NAME_DESCRIPTION)
    metadata: Metadata = Field(default_factory=dict, description="As JSON.")
    prompt_suffix: PromptSuffix = Field(default_factory=str, description=SUFFIX_DESCRIPTION)


class StyleOfWords(Named):
    """A style without pictures, made from a text."""

    text: str = Field(min_length=1, pattern=r"\S", description="Describes the style; bounded as a prompt is.")
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Another seed, another look of the text.")

    def source(self) -> StyleText:
        return StyleText(self.text, self.seed)


class StyleOfCode(Named):
    """The style of a style code, stored under an ID."""

    code: str = Field(
        min_length=1,
        max_length=MAX_CODE_CHARS,
        description="The code of a style of the same model, from here or elsewhere.",
    )

    def source(self) -> str:
        return self.code


class StyleChange(Named):
    """A field that is left out stays as it is; null removes it."""


class StyleResponse(BaseModel):
    id: str = Field(description="The style ID; of a style code that is not stored here, the code itself.")
    object: Literal["style"] = Field(default="style", description="What this is.")
    created: int | None = Field(description="Seconds since 1970; null for a code that is not stored here.")
    name: str | None = Field(description=NAME_DESCRIPTION)
    metadata: dict[str, str] = Field(description=METADATA_DESCRIPTION)
    prompt_suffix: str | None = Field(description=SUFFIX_DESCRIPTION)
    source: Literal["images", "text", "code"] = Field(description="What the style was made from.")
    num_images: int = Field(description="Pictures whose mean it is; 0 for a style made from text.")
    image_width: int | None = Field(description="Of its first picture as stored; null without one.")
    image_height: int | None = Field(description="As `image_width`.")
    text: str | None = Field(description="The text of a style made from text.")
    seed: int | None = Field(description="The seed of a style made from text.")
    warnings: list[str] = Field(
        description="What of its text the model served cannot use: one that it does not know makes the same "
        "style as any other."
    )
    model: str = Field(description="The model served: the code and the numbers below are its own.")
    fingerprint: str = Field(description="The model's, as in `/v1/models`.")
    is_read: bool = Field(
        description="Whether this model has analysed the style; if not, the four fields below are null. "
        "Creating a style and getting it by its ID analyse it; a list does not, and shows false for a style "
        "that only another model or an earlier version has analysed. By ID it is false only for a style from "
        "another model's code."
    )
    code: str | None = Field(
        description="The style itself as text: accepted instead of an ID by every service with this model."
    )
    singular_values: list[float] | None = Field(description="Of the style feature, descending.")
    dominance: float | None = Field(
        description="Share of the first component in the feature's energy, 0 to 1; low for a mixed style."
    )
    agreement: float | None = Field(
        description="How alike its pictures are: 1 equal, about 0 unrelated. Null for one picture."
    )


class StyleQuery(Incoming):
    # A query holds text only, so numbers are converted from it.
    model_config = ConfigDict(strict=False)

    limit: int = Field(default=20, ge=1, le=100, description="Most styles in one answer.")
    after: str | None = Field(default=None, max_length=500, description="The `last_id` of the answer before.")
    order: Literal["asc", "desc"] = Field(
        default="desc", description="By time of creation; newest first by default."
    )


class StyleImageQuery(Incoming):
    model_config = ConfigDict(strict=False)

    index: int = Field(default=0, ge=0, le=2**31, description="Which of the style's pictures, from 0.")


class StyleListResponse(BaseModel):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[StyleResponse] = Field(description="The styles, by time of creation.")
    first_id: str | None = Field(description="The ID of the first one here; null when there is none.")
    last_id: str | None = Field(description="The ID to give as `after` for what follows.")
    has_more: bool = Field(description="Whether more follow.")


class StyleDeletedResponse(BaseModel):
    id: str = Field(description="The ID of the deleted style.")
    object: Literal["style.deleted"] = Field(default="style.deleted", description="What this is.")
    deleted: Literal[True] = Field(default=True, description="Always true.")
