"""What bounds a batch: its achieved rates beside what this machine can do at best, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from service.bench.report import Value
from service.evaluation.counting import Count
from service.evaluation.peaks import Peaks

# A step that reaches half of a peak is bound by it; one that reaches neither waits for something else:
# launches, Python, kernels far from the peak.
REACHED = 0.5


def bound_of(count: Count, seconds: float, peaks: Peaks) -> str:
    """`operations`, `memory` or `overhead`: what the time of one step went into."""
    operations = count.flops / peaks.flops_per_second / seconds
    memory = count.bytes / peaks.bytes_per_second / seconds
    if max(operations, memory) < REACHED:
        return "overhead"
    return "operations" if operations >= memory else "memory"


def bounds(counts: Sequence[Count], seconds: Sequence[float], peaks: Peaks) -> dict[str, Value]:
    """For a row of a report: what most of the steps' time is bound by, and the rates over all of them.

    Memory's share passes 1 where caches keep what was counted as traffic.
    """
    time_of = dict.fromkeys(("operations", "memory", "overhead"), 0.0)
    for count, second in zip(counts, seconds, strict=True):
        time_of[bound_of(count, second, peaks)] += second
    total = sum(seconds)
    flops, num_bytes = sum(each.flops for each in counts), sum(each.bytes for each in counts)
    return {
        "bound_by": max(time_of, key=time_of.__getitem__),
        "of_its_time_share": max(time_of.values()) / total,
        "counted_flops": flops,
        "counted_bytes": num_bytes,
        "peak_flops_share": flops / total / peaks.flops_per_second,
        "peak_copy_share": num_bytes / total / peaks.bytes_per_second,
    }
