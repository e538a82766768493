"""Kernels that drawing launches, and what each has to do: counted on tensors without values.

On torch's meta device every operation is called with its true shapes and nothing is computed, so that a model
of any size is counted on any machine in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from service.evaluation.flops import traffic_of


class Kind(StrEnum):
    """What a kernel does; also the name of its row in a report."""

    PRODUCT = "matrix products"
    ATTENTION = "attention"
    CONVOLUTION = "convolutions"
    ELEMENTWISE = "elementwise and copies"  # reductions and norms as well


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch. `num_bytes` are read and written, as if no cache kept any."""

    kind: Kind
    num_bytes: int
    flops: int = 0
    is_fp32: bool = False  # of its products: tensor cores do not take them unrounded


@dataclass(frozen=True, slots=True)
class Totals:
    num_launches: int
    num_bytes: int
    flops: int

    @classmethod
    def of(cls, kernels: Iterable[Kernel]) -> Totals:
        found = list(kernels)
        return cls(
            len(found), sum(kernel.num_bytes for kernel in found), sum(kernel.flops for kernel in found)
        )


_ATEN = torch.ops.aten
_SHARED, _LINEAR_GELU = torch.ops.atelier.shared_attention, torch.ops.atelier.linear_gelu
_KINDS = dict.fromkeys((_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm), Kind.PRODUCT) | {
    _ATEN.convolution: Kind.CONVOLUTION
}
# One kernel on a GPU, where torch would show what it is made of on a device without values.
_WHOLE = {*_KINDS, _ATEN.upsample_bilinear2d}


def kernel_of(
    packet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any, num_bytes: int
) -> Kernel:
    """The kernel of one of torch's operations, `packet` being its name without an overload."""
    if packet is _SHARED:
        return shared_attention_kernel(*args)
    if packet is _LINEAR_GELU:
        x, weight, _ = args
        return Kernel(Kind.PRODUCT, num_bytes, 2 * x.numel() * weight.shape[0], x.dtype == torch.float32)
    kind = _KINDS.get(packet, Kind.ELEMENTWISE)
    if kind is Kind.ELEMENTWISE:
        return Kernel(kind, num_bytes)
    factor = args[0] if kind is Kind.CONVOLUTION else args[-1]
    flops = flop_registry[packet](*args, **kwargs, out_val=out)
    return Kernel(kind, num_bytes, int(flops), factor.dtype == torch.float32)


def attention_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Kernel:
    """Attention as one fused kernel, which keeps its scores to itself; what is expanded is read once."""
    read = [tensor for tensor in (query, key, value, mask) if tensor is not None]
    num_bytes = sum(_stored_bytes(tensor) for tensor in read) + query.nbytes
    flops = int(sdpa_flop_count(query.shape, key.shape, value.shape))
    return Kernel(Kind.ATTENTION, num_bytes, flops, query.dtype == torch.float32)


def shared_attention_kernel(
    queries: Tensor, keys: Tensor, values: Tensor, groups: Tensor, value_rows: Tensor, num_known: int
) -> Kernel:
    """The kernel of `shared_attention`: the scores of an own row once, and the values of all rows."""
    own_rows, num_tokens, num_heads, head_width = queries.shape
    num_rows = len(value_rows)
    flops = 2 * num_tokens * num_known * num_heads * head_width * (own_rows + num_rows)
    read = queries.nbytes + keys.itemsize * num_known * num_heads * head_width * (own_rows + num_rows)
    written = queries.nbytes // own_rows * num_rows
    return Kernel(Kind.ATTENTION, read + written, flops, queries.dtype == torch.float32)


def _stored_bytes(tensor: Tensor) -> int:
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.itemsize * prod(size for size, stride in sides if stride)


class LaunchCounter(TorchDispatchMode):
    """Notes a kernel for each operation that reads or writes memory; views and allocations are none."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket not in _WHOLE:
            with self:  # in inference mode one that is made of others comes whole
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        if num_bytes := traffic_of(func, args, kwargs or {}, out):
            self.kernels.append(kernel_of(func.overloadpacket, args, kwargs or {}, out, num_bytes))
        return out


class _OneKernelAttention(TorchFunctionMode):
    """Counts torch's attention as the one kernel that it is on a GPU; a meta device has it in pieces."""

    def __init__(self, add: Callable[[Kernel], None]) -> None:
        super().__init__()
        self._add = add

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args
        self._add(attention_kernel(query, key, value, (kwargs or {}).get("attn_mask")))
        rows, heads, tokens, width = query.shape
        return query.new_empty(rows, tokens, heads, width).transpose(1, 2)  # as the fused kernels lay it out


@contextmanager
def counting() -> Iterator[LaunchCounter]:
    """Count all kernels that are launched while it lasts."""
    with LaunchCounter() as counter, _OneKernelAttention(counter.kernels.append):
        yield counter
