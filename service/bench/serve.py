"""`bench serve`: a real server process under open-loop loads, each of a fixed rate of arrivals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2

from service.bench.load import Answer, arrivals, drawing, drawn, new_style, num_batches, offer
from service.bench.report import Findings, Row, Table, Value
from service.bench.timing import percentile

# Of what the server would do if it drew one image after the other. Batches let it do more.
LOADS = (0.5, 0.8, 1.2)
# Later seeds of one run never meet: two requests with one prompt and seed would share a content path.
_SEEDS_APART = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """The loads, each for `seconds`: requests a second; LOADS of a lone request's rate if none."""

    rates: tuple[float, ...]
    seconds: float
    seed: int
    num_lone: int


async def measure_serve(client: httpx2.AsyncClient, size: str, offered: Offered) -> Findings:
    """First requests one at a time, then each load. A load begins when the one before is answered."""
    style = await new_style(client, offered.seed)
    send = drawing(client, style=style, size=size, seed=offered.seed)
    lone = [await drawn(send, number) for number in range(offered.num_lone + 1)][1:]
    alone = statistics.median(answer.latency for answer in lone)
    rows = [Row("one at a time", _values(lone, alone))]
    for index, rate in enumerate(offered.rates or [load / alone for load in LOADS], start=1):
        due = arrivals(rate, offered.seconds, offered.seed + index)
        jobs, batches = await num_batches(client)
        answers = await offer(
            due, drawing(client, style=style, size=size, seed=offered.seed + index * _SEEDS_APART)
        )
        more_jobs, more_batches = await num_batches(client)
        ran = more_batches - batches
        values = _values(answers, alone) | {
            "images_per_second": _num(answers, 200) / max(answer.ended for answer in answers),
            "jobs_in_a_batch": (more_jobs - jobs) / ran if ran else None,
        }
        rows.append(Row(f"{rate:.3g}/s, {rate * alone:.2f} of one at a time", values))
    return Findings(
        (Table("requests", tuple(rows)),),
        (
            f"Arrivals are decided in advance, {offered.seconds:g} s of each rate, and latency counts from "
            "the arrival: no request waits for the answer to another. Late is how much later than due the "
            "client itself sent; p95 wants 20 answers, p99 wants 100. Client and server share the machine.",
        ),
    )


def _values(answers: Sequence[Answer], alone: float) -> dict[str, Value]:
    fine = [answer for answer in answers if answer.status == 200]
    latencies = [answer.latency for answer in fine]
    waits = [answer.stages.get("queue", 0.0) for answer in fine]
    median = statistics.median(latencies) if fine else None
    return {
        "num_requests": len(answers),
        "num_rejected": _num(answers, 429),
        "num_failed": len(answers) - len(fine) - _num(answers, 429),
        "median_seconds": median,
        "p95_seconds": percentile(latencies, 0.95),
        "p99_seconds": percentile(latencies, 0.99),
        "median_ratio": None if median is None else median / alone,
        "queue_median_seconds": statistics.median(waits) if fine else None,
        "queue_p95_seconds": percentile(waits, 0.95),
        "queue_p99_seconds": percentile(waits, 0.99),
        "late_p99_seconds": percentile([answer.lateness for answer in answers], 0.99),
    }


def _num(answers: Sequence[Answer], status: int) -> int:
    return sum(answer.status == status for answer in answers)
