"""What all bodies share: the refusal of unknown fields, and the error body."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# Bound of what a message repeats of a name that the client chose.
MAX_SHOWN_CHARS = 60


class Incoming(BaseModel):
    """A body or query: unknown fields are refused by name, and no type is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, values: Any) -> Any:
        known = list(cls.model_fields)
        for name in values if isinstance(values, dict) else ():
            if name not in known:
                raise unknown_field(name, known)
        return values


def without_nulls(values: Any, optional: Collection[str]) -> Any:
    """The body without the optional fields that are null: clients in JavaScript send null for what is left
    out.
    """
    if not isinstance(values, dict):
        return values
    return {name: value for name, value in values.items() if value is not None or name not in optional}


def optional_fields_may_be_null(schema: dict[str, Any]) -> None:
    """For the JSON schema of a body that is read `without_nulls`."""
    for name, field in schema["properties"].items():
        kinds = field.get("anyOf", ())
        if name in schema["required"] or {"type": "null"} in kinds:
            continue
        about = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
        schema["properties"][name] = {"anyOf": [*(kinds or [field]), {"type": "null"}], **about}


def unknown_field(name: str, known: list[str]) -> PydanticCustomError:
    name = name.encode(errors="backslashreplace").decode()  # half a surrogate pair is not valid text
    near = get_close_matches(name, known, n=1)
    instead = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
    shown = name if len(name) <= MAX_SHOWN_CHARS else f"{name[:MAX_SHOWN_CHARS]}..."
    context = {"name": shown, "instead": instead}
    return PydanticCustomError("unknown_parameter", "There is no parameter {name}. {instead}", context)


class Problem(BaseModel):
    message: str = Field(description="What was wrong, and what would be right.")
    type: str = Field(description="`invalid_request_error`, `rate_limit_error` or `server_error`.")
    param: str | None = Field(description="The field it is about; a dot between levels.")
    code: str = Field(description="Stable; the description of this document lists all.")


class ProblemResponse(BaseModel):
    error: Problem = Field(description="What went wrong.")
