"""The JSON of the health routes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class LiveResponse(BaseModel):
    status: Literal["live"] = Field(default="live", description="The process answers.")


class ReadyResponse(BaseModel):
    status: Literal["ready"] = Field(default="ready", description="Images can be drawn.")
    model: Literal["ready"] = Field(default="ready", description="Loaded and warm.")
    store: Literal["ready", "unavailable"] = Field(
        description="`unavailable` leaves styles in memory working."
    )


class VersionResponse(BaseModel):
    version: str = Field(description="Of the service.")
    row_tile: int | None = Field(
        description="Rows to which batches are padded on this CPU, as measured at the start; null on a GPU, "
        "with a compiled model, where no number of rows holds, and while the model loads."
    )
    is_batch_invariant: bool = Field(
        description="Whether an image has the same bytes alone and in any batch: true with a row tile."
    )
