"""`bench counts`: launches, bytes and operations of drawing, counted without a GPU, and the time that they
need at least on some.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from service.bench.report import Findings, Row, Table, Value
from service.evaluation.counted_drawing import (
    CountedInfinity,
    DrawnKernels,
    StepKernels,
    count_compiled,
    count_drawing,
)
from service.evaluation.launches import Kernel, Kind, Totals
from service.evaluation.random_weights import shape_of
from service.model.infinity.config import InfinityConfig
from service.model.schedule import Size

# A launch's time on the host, of PyTorch's eager operations and of compiled code: what one thread of a server
# processor takes, of the order of what is commonly measured. A GPU waits for it where kernels are shorter.
EAGER_LAUNCH_SECONDS, COMPILED_LAUNCH_SECONDS = 6e-6, 3e-6


@dataclass(frozen=True, slots=True)
class Gpu:
    """The makers' peak rates: bf16 tensor cores without sparsity, fp32 outside them, and memory."""

    name: str
    bf16_flops: float
    fp32_flops: float
    bytes_per_second: float

    def seconds(self, kernel: Kernel) -> float:
        """The least that a kernel takes: no kernel reaches it."""
        peak = self.fp32_flops if kernel.is_fp32 else self.bf16_flops
        return max(kernel.flops / peak, kernel.num_bytes / self.bytes_per_second)


GPUS = (
    Gpu("A6000", 154.8e12, 38.7e12, 768e9),
    Gpu("A100 80 GB", 312e12, 19.5e12, 2039e9),
    Gpu("H100 SXM", 989e12, 67e12, 3350e9),
)


def measure_counts(model: str, size: str | None = None) -> tuple[Size, Findings]:
    """Of one stylised image, as eager PyTorch and as compiled code; and the size that was counted.

    ValueError where `model` is no Infinity, or does not draw the size.
    """
    config = shape_of(model)
    if not isinstance(config, InfinityConfig):
        raise ValueError(f"bench counts counts what an Infinity launches, and {config.name} is none")
    infinity = CountedInfinity.of(config)
    wanted = next(iter(infinity.schedules)) if size is None else Size.parse(size)
    if wanted not in infinity.schedules:
        raise ValueError(f"{config.name} draws {', '.join(map(str, infinity.schedules))}, not {wanted}")
    eager = count_drawing(infinity, size=wanted)
    return wanted, findings_of(eager, count_compiled(infinity, eager))


def findings_of(eager: DrawnKernels, compiled: DrawnKernels) -> Findings:
    """One stylised image as eager PyTorch launches it and as compiled code does."""
    forms = (("eager", eager, EAGER_LAUNCH_SECONDS), ("compiled", compiled, COMPILED_LAUNCH_SECONDS))
    tables = [_by_kind(f"one stylised image, {name}", drawn) for name, drawn, _ in forms]
    tables.append(_by_step(eager, compiled))
    tables += [_roofline(name, drawn, launch) for name, drawn, launch in forms]
    return Findings(tuple(tables), _NOTES)


_NOTES = (
    "Counted on tensors without values: four rows, in bf16, the prompt encoded beforehand. Nothing was "
    "measured. Traffic is what kernels read and write, as if no cache kept any of it.",
    "At the peaks: each kernel takes the longer of its operations and its traffic at the maker's rates. Of "
    f"the host: launches of {1e6 * EAGER_LAUNCH_SECONDS:.0f} us each, compiled "
    f"{1e6 * COMPILED_LAUNCH_SECONDS:.0f}. Together: step by step the longer of the two.",
)


def _by_kind(title: str, drawn: DrawnKernels) -> Table:
    rows = [Row(kind, _values(kernel for kernel in drawn if kernel.kind is kind)) for kind in Kind]
    return Table(title, (*rows, Row("in all", _values(drawn))))


def _values(kernels: Iterable[Kernel]) -> dict[str, Value]:
    totals = Totals.of(kernels)
    return {
        "num_launches": totals.num_launches,
        "counted_bytes": totals.num_bytes,
        "counted_flops": totals.flops,
    }


def _by_step(eager: DrawnKernels, compiled: DrawnKernels) -> Table:
    """The middle layer of each step, whose kernels are the step's times the number of layers."""
    rows = []
    for number, (before, after) in enumerate(zip(eager.steps, compiled.steps, strict=True), start=1):
        values: dict[str, Value] = {"num_tokens": before.num_tokens}
        for form, step in (("eager", before), ("compiled", after)):
            kernels = step.blocks[0].kernels
            moved = Totals.of(kernel for kernel in kernels if kernel.kind is Kind.ELEMENTWISE)
            values |= {f"num_{form}_launches": len(kernels), f"{form}_elementwise_bytes": moved.num_bytes}
        values["num_launches_beside"] = sum(1 for _ in before) - _num_of_blocks(before)
        values["num_compiled_beside"] = sum(1 for _ in after) - _num_of_blocks(after)
        rows.append(Row(f"step {number}", values))
    return Table("a layer of each step", tuple(rows))


def _num_of_blocks(step: StepKernels) -> int:
    return sum(len(block.kernels) for block in step.blocks)


def _roofline(form: str, drawn: DrawnKernels, launch_seconds: float) -> Table:
    parts = [*map(list, drawn.steps), list(drawn.decode)]
    rows = []
    for gpu in GPUS:
        device = [sum(map(gpu.seconds, part)) for part in parts]
        host = [launch_seconds * len(part) for part in parts]
        values: dict[str, Value] = {
            "at_the_peaks_seconds": sum(device),
            "of_the_host_seconds": sum(host),
            "together_seconds": sum(map(max, device, host)),
        }
        for kind in Kind:
            share = sum(gpu.seconds(kernel) for kernel in drawn if kernel.kind is kind) / sum(device)
            values[f"{kind.value.split()[0]}_share"] = share
        rows.append(Row(gpu.name, values))
    return Table(f"least time, {form}", tuple(rows))
