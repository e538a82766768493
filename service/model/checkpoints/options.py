"""What a person can choose about a model, as it is written in settings. Plain words: no torch is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.model.schedule import Size

PrecisionChoice = Literal["auto", "fp32", "bf16", "fp8"]
TextPrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
TextDeviceChoice = Literal["beside", "cpu", "fetched"]
DecodingChoice = Literal["auto", "whole", "strips"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """`registry.load` makes them a Precision, sizes and a DecoderRunner, and refuses what makes no sense."""

    precision: PrecisionChoice = "auto"
    text_precision: TextPrecisionChoice = "auto"
    text_device: TextDeviceChoice = "beside"
    sizes: str = "auto"
    decoding: DecodingChoice = "auto"
    compile: bool | None = None  # None: on a GPU, where there are compilers


DEFAULT_OPTIONS = LoadOptions()
# Each enabled size is drawn once before the service is ready. With a model of fifteen ratios that would be
# fifteen images of a megapixel, most of a minute on a GPU and hours on a CPU, and most services need one.
MOST_BY_DEFAULT = 4


def choose_sizes(native: Sequence[Size], asked: str, *, model: str) -> tuple[Size, ...]:
    """The sizes that `asked` enables, without repetition, the first of them the default.

    `auto`: all where there are few, else the first; `all`; or a list with commas, such as
    "1024x1024,1344x768". ValueError: a sentence with what is native.
    """
    if asked == "auto":
        return tuple(native) if len(native) <= MOST_BY_DEFAULT else tuple(native[:1])
    if asked == "all":
        return tuple(native)
    by_name = {str(size): size for size in native}
    names = [name.strip() for name in asked.split(",") if name.strip()]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise ValueError(
            f"ATELIER_SIZES names {', '.join(unknown) or 'no size'}; give auto, all, or some of the sizes "
            f"of {model}: {', '.join(by_name)}"
        )
    return tuple(by_name[name] for name in dict.fromkeys(names))
