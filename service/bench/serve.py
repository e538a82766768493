"""`bench serve`: a real server process under open-loop loads, each of a fixed rate of arrivals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2

from service.bench.load import TimedRequest, arrivals, draw_one, image_requests, new_style, num_batches, offer
from service.bench.report import Findings, Row, Table, Value
from service.bench.timing import percentile

# Of what the server would do if it drew one image after the other. Batches let it do more.
LOADS = (0.5, 0.8, 1.2)
# Later seeds of one run never meet: two requests with one prompt and seed would share a content path.
_SEEDS_APART = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """Loads of `seconds` each: requests a second; if empty, LOADS of the rate of single requests."""

    rates: tuple[float, ...]
    seconds: float
    seed: int
    num_single: int


async def measure_serve(client: httpx2.AsyncClient, size: str, offered: Offered) -> Findings:
    """First requests one at a time, then the loads, each after the last response to the one before."""
    style = await new_style(client, offered.seed)
    send = image_requests(client, style=style, size=size, seed=offered.seed)
    single = [await draw_one(send, number) for number in range(offered.num_single + 1)][1:]
    alone = statistics.median(request.latency for request in single)
    rows = [Row("one at a time", _values(single, alone))]
    for index, rate in enumerate(offered.rates or [load / alone for load in LOADS], start=1):
        due = arrivals(rate, offered.seconds, offered.seed + index)
        jobs, batches = await num_batches(client)
        requests = await offer(
            due, image_requests(client, style=style, size=size, seed=offered.seed + index * _SEEDS_APART)
        )
        more_jobs, more_batches = await num_batches(client)
        ran = more_batches - batches
        values = _values(requests, alone) | {
            "images_per_second": _num(requests, 200) / max(request.ended for request in requests),
            "jobs_in_a_batch": (more_jobs - jobs) / ran if ran else None,
        }
        rows.append(Row(f"{rate:.3g}/s, {rate * alone:.2f} of one at a time", values))
    return Findings(
        (Table("requests", tuple(rows)),),
        (
            f"Arrivals are decided in advance, {offered.seconds:g} s of each rate, and latency counts from "
            "the arrival: no request waits for the response to another. Late is how much later than due the "
            "client itself sent; p95 wants 20 requests, p99 wants 100. Client and server share the machine.",
        ),
    )


def _values(requests: Sequence[TimedRequest], alone: float) -> dict[str, Value]:
    succeeded = [request for request in requests if request.status == 200]
    latencies = [request.latency for request in succeeded]
    waits = [request.stages.get("queue", 0.0) for request in succeeded]
    median = statistics.median(latencies) if succeeded else None
    return {
        "num_requests": len(requests),
        "num_rejected": _num(requests, 429),
        "num_failed": len(requests) - len(succeeded) - _num(requests, 429),
        "median_seconds": median,
        "p95_seconds": percentile(latencies, 0.95),
        "p99_seconds": percentile(latencies, 0.99),
        "median_ratio": None if median is None else median / alone,
        "queue_median_seconds": statistics.median(waits) if succeeded else None,
        "queue_p95_seconds": percentile(waits, 0.95),
        "queue_p99_seconds": percentile(waits, 0.99),
        "late_p99_seconds": percentile([request.lateness for request in requests], 0.99),
    }


def _num(requests: Sequence[TimedRequest], status: int) -> int:
    return sum(request.status == status for request in requests)
