"""Precision: in which number formats a model's weights are held, and on which device its prompts are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import torch
from torch import nn

from service.model.device.fp8 import is_in_fp8

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Of the transformer's layers, as they are told to people.
PrecisionName = Literal["fp32", "bf16", "fp8"]


class TextEncoderDevice(StrEnum):
    """Where the text encoder is."""

    BESIDE = "beside"  # the transformer, always
    CPU = "cpu"  # reads prompts there
    FETCHED = "fetched"  # beside the transformer while prompts are read, and on the CPU between batches


@dataclass(frozen=True, slots=True)
class Precision:
    """`blocks`: the matrices of the transformer's layers, their keys and values, and the image decoder. With
    `fp8`, the layers' products are in that, and `blocks` is bf16 for all else.

    Always fp32: the image tokenizer's encoder, which decides a style (see `forbid_tf32`); modulation, norms,
    sums, the head and the features. The reference holds `ada_gss`, `ca_norm`, `scale_mul` and biases in bf16
    and rounds the input of block 0, so this is more precise than it.
    """

    blocks: torch.dtype = torch.float32
    text: torch.dtype = torch.float32
    text_device: TextEncoderDevice = TextEncoderDevice.BESIDE
    fp8: bool = False


FULL = Precision()


def choose(
    device: torch.device,
    *,
    precision: str = "auto",
    text_precision: str = "auto",
    text_device: str = "beside",
) -> Precision:
    """The precision that settings ask for on a device. ValueError: a sentence, where they make no sense.

    `auto` is on a GPU bf16 and an fp16 text encoder, as in the reference, and on a CPU fp32: there
    half precision is quicker only on processors that multiply in it. A text encoder on the CPU beside a bf16
    model on the CPU is bf16 as well.
    """
    on_gpu = device.type != "cpu"
    text_on_gpu = on_gpu and text_device != "cpu"
    if text_device == "fetched" and not on_gpu:
        raise ValueError(
            "ATELIER_TEXT_DEVICE is fetched, which frees a GPU's memory between batches, and the model is on "
            f"the {device.type.upper()}: leave it at beside"
        )
    if precision == "auto":
        precision = "bf16" if on_gpu else "fp32"
    is_fp8 = precision == "fp8"
    if is_fp8:
        precision = "bf16"
    if text_precision == "auto" and precision == "bf16":
        text_precision = "fp16" if text_on_gpu else "fp32" if on_gpu else "bf16"
    elif text_precision == "auto":
        text_precision = "fp32"
    if text_precision == "fp16" and not text_on_gpu:
        raise ValueError(
            "ATELIER_TEXT_PRECISION is fp16, in which a CPU computes slowly and the text encoder would be on "
            "one: choose bf16, of the same size, or fp32"
        )
    where = TextEncoderDevice(text_device)
    return Precision(DTYPES[precision], DTYPES[text_precision], where, fp8=is_fp8)


def name_of(blocks: nn.Module, dtype: torch.dtype) -> PrecisionName:
    """Of a transformer's layers, whose matrices are fp8 or of the dtype."""
    if is_in_fp8(blocks):
        return "fp8"
    return "fp32" if dtype == torch.float32 else "bf16"


def forbid_tf32() -> None:
    """Compute fp32 convolutions on a GPU in fp32: by default cuDNN rounds their inputs to 10 bits (TF32).

    A style is the signs of the image tokenizer's encoder, so rounding changes it. Matrix products are fp32 by
    default.
    """
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def full_fp32() -> Iterator[None]:
    """While it lasts, no fp32 convolution or matrix product is rounded to TF32; what was set before returns.

    For all that decides a style, whatever a library or an embedding program allows elsewhere.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def hold_matrices(module: nn.Module, dtype: torch.dtype, *, besides: Collection[nn.Module] = ()) -> None:
    """Convert the linear layers of a module, except `besides`.

    Norms and single vectors stay as they are: they take little memory, and are added to fp32 sums.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer not in besides:
            layer.to(dtype)
