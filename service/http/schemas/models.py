"""The JSON of /v1/models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ModelResponse(BaseModel):
    id: str = Field(description="Its name, for `model` in a request.")
    object: Literal["model"] = Field(default="model", description="What this is.")
    created: int = Field(description="When it was loaded, in seconds since 1970.")
    owned_by: str = Field(description="Always `atelier`; OpenAI's clients expect it.")
    fingerprint: str = Field(description="16 hex characters: models that share them share style codes.")
    sizes: list[str] = Field(description="The sizes that this service has enabled, `WIDTHxHEIGHT`.")
    default_size: str = Field(description="The size that `auto` is.")
    native_sizes: list[str] = Field(description="The sizes that the model was trained for.")
    precision: Literal["fp32", "bf16"] = Field(description="Of the transformer's layers.")
    guidance: float = Field(description="Weight of the prompt where a request names none.")
    alpha: float = Field(description="How fast a style's lesser components fade where a request names none.")
    max_prompt_tokens: int = Field(description="A longer prompt is cut.")
    qualities: dict[str, str] = Field(description="What each `quality` leaves out; `exact` for nothing.")
    resident_bytes: int = Field(description="Memory of the weights.")


class ModelListResponse(BaseModel):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[ModelResponse] = Field(description="The one model that is served.")
