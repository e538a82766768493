"""What a person can choose about a model, as it is written in settings. Plain words: no torch is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PrecisionChoice = Literal["auto", "fp32", "bf16"]
TextPrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
TextDeviceChoice = Literal["beside", "cpu", "fetched"]
DecodingChoice = Literal["auto", "whole", "strips"]


@dataclass(frozen=True, slots=True)
class Choices:
    """`presets.load` makes them a Precision, sizes and a Decoding, and refuses what makes no sense."""

    precision: PrecisionChoice = "auto"
    text_precision: TextPrecisionChoice = "auto"
    text_device: TextDeviceChoice = "beside"
    sizes: str = "auto"
    decoding: DecodingChoice = "auto"
    compile: bool = False


BY_DEFAULT = Choices()
