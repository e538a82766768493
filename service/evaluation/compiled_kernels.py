"""Kernels that torch's compiler makes of a piece of the model, counted without a GPU and without compiling.

Inductor decides what it fuses before it writes any code. It is asked for its Triton schedule, on tensors
without values, and stopped there: launches and bytes are those of the code that it would write for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext

from service.evaluation.launches import Kernel, Kind, attention_kernel, kernel_of

# What each of Inductor's nodes that launch nothing is called.
_NO_LAUNCH = {"NopKernelSchedulerNode"}
_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class _Scheduled(Exception):
    """Inductor has its schedule: nothing after it is wanted."""


def kernels_compiled(function: Callable[..., Any], *arguments: Any) -> list[Kernel]:
    """The kernels of one call of `function`, whose tensors are on the meta device."""
    from torch._inductor import config  # seconds to import
    from torch._inductor.compile_fx import compile_fx

    kernels: list[Kernel] = []

    def note(nodes: list[Any]) -> list[Any]:
        kernels.extend(kernel for node in nodes if (kernel := _kernel(node)) is not None)
        raise _Scheduled

    def backend(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        fake_mode = TracingContext.get().fake_mode
        assert fake_mode is not None, "the compiler traces without values"
        # Inductor writes Triton for a CPU as well, where that is asked for, and needs no GPU to plan it.
        with fake_mode:
            on_cpu = [
                torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
                for tensor in inputs
            ]
        with config.patch(cpu_backend="triton", _post_fusion_custom_pass=note, fx_graph_cache=False):
            try:
                compile_fx(graph, on_cpu)
            except Exception:
                if not kernels:
                    raise
        return graph.forward

    torch._dynamo.reset()
    torch.compile(function, fullgraph=True, dynamic=False, backend=backend)(*arguments)
    return kernels


def _kernel(node: Any) -> Kernel | None:
    """The launch of one of the scheduler's nodes."""
    num_bytes = node.get_read_write_buffers_sizes()
    if type(node).__name__ in _NO_LAUNCH or num_bytes == 0:  # the second: one result of several
        return None
    if not node.is_extern():
        return Kernel(Kind.ELEMENTWISE, num_bytes)
    for origin in node.node.get_origins():
        packet = getattr(origin.target, "overloadpacket", None)
        args, kwargs = fx.map_arg((origin.args, origin.kwargs), lambda argument: argument.meta["val"])
        if packet is _ATTENTION:
            query, key, value = args[:3]
            return attention_kernel(query, key, value, kwargs.get("attn_mask"))
        kernel = kernel_of(packet, args, kwargs, origin.meta.get("val"), num_bytes)
        if kernel.kind is not Kind.ELEMENTWISE:
            return kernel
    return Kernel(Kind.ELEMENTWISE, num_bytes)
