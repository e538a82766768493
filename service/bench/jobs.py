"""What queued jobs cost those who wait: latency of requests with and without jobs, in turn, in one run.

    python -m service.bench.jobs --jobs 100

starts a server with an empty data folder and offers the same load of requests in blocks, half of them while
so many jobs wait. Requests of a pair of blocks arrive at the same times and draw the same images.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence

import httpx2
import torch

from service import __version__
from service.bench.load import TimedRequest, arrivals, draw_one, image_requests, new_style, offer
from service.bench.server import ServerOptions, running
from service.bench.timing import percentile
from service.evaluation.hardware import describe

NUM_SINGLE = 10
_SEEDS_APART = 100_000
LATER = {"Prefer": "respond-async"}


async def measure(
    client: httpx2.AsyncClient, *, num_jobs: int, num_blocks: int, seconds: float, load: float
) -> str:
    """The report of so many pairs of blocks, one of each pair without jobs."""
    style = await new_style(client, 0)
    size = (await client.get("/v1/models")).json()["data"][0]["default_size"]
    send = image_requests(client, style=style, size=size, seed=0)
    alone = statistics.median(
        [(await draw_one(send, number)).latency for number in range(NUM_SINGLE + 2)][2:]
    )
    without, beside = list[TimedRequest](), list[TimedRequest]()
    least_open = num_jobs
    for block in range(num_blocks):
        seed = (block + 1) * _SEEDS_APART
        due = arrivals(load / alone, seconds, block)
        send = image_requests(client, style=style, size=size, seed=seed)
        if block % 2 == 0:  # the order changes, so that a machine that becomes slower favours neither
            without += await offer(due, send)
        await _submit(client, num_jobs, seed)
        beside += await offer(due, send)
        least_open = min(least_open, await _cancel_open(client))
        if block % 2 == 1:
            without += await offer(due, send)
    steps = await _step_seconds(client)
    p95 = percentile([request.latency for request in without], 0.95) or 0.0
    p95_beside = percentile([request.latency for request in beside], 0.95) or 0.0
    failed = sum(request.status != 200 for request in (*without, *beside))
    return "\n".join(
        [
            f"{len(without)} requests in {num_blocks} blocks of {seconds:g} s, {load:g} of what one after "
            f"the other would fill; alone one takes {1000 * alone:.0f} ms; {failed} failed",
            f"at least {least_open} of {num_jobs} jobs were left at the end of a block",
            _line("without jobs", without),
            _line(f"with {num_jobs} jobs queued", beside),
            f"p95 with / without: {p95_beside / p95:.3f}, {1000 * (p95_beside - p95):+.1f} ms; the model's "
            f"longest step takes {1000 * max(steps):.1f} ms on average, an image's decoding included "
            f"{1000 * (sum(steps)):.1f} ms in all",
        ]
    )


def _line(name: str, requests: Sequence[TimedRequest]) -> str:
    """Latency, and of it the wait for the model: on a busy machine the rest varies by itself."""
    latencies = [request.latency for request in requests]
    waits = [request.stages.get("queue", 0.0) for request in requests]
    values = [
        1000 * (percentile(seconds, share) or max(seconds))
        for seconds in (latencies, waits)
        for share in (0.5, 0.95)
    ]
    return (
        f"{name:24} p50 {values[0]:7.1f} ms   p95 {values[1]:7.1f} ms   "
        f"of it waiting for the model: p50 {values[2]:7.1f} ms   p95 {values[3]:7.1f} ms"
    )


async def _submit(client: httpx2.AsyncClient, num_jobs: int, seed: int) -> None:
    for number in range(num_jobs):
        body = {"prompt": f"a blue circle {number}", "seed": seed + number}
        (await client.post("/v1/images/generations", json=body, headers=LATER)).raise_for_status()


async def _cancel_open(client: httpx2.AsyncClient) -> int:
    """Cancel what is left of the jobs; how many these were."""
    jobs = (await client.get("/v1/jobs", params={"limit": 100})).json()["data"]
    left = [job["id"] for job in jobs if job["status"] in ("queued", "running")]
    for job_id in left:
        (await client.delete(f"/v1/jobs/{job_id}")).raise_for_status()
    return len(left)


async def _step_seconds(client: httpx2.AsyncClient) -> list[float]:
    """The mean duration of each step, from the metrics."""
    found: dict[str, dict[str, float]] = {}
    for line in (await client.get("/metrics")).text.splitlines():
        name, _, rest = line.partition('{step="')
        if name in ("atelier_step_duration_seconds_sum", "atelier_step_duration_seconds_count"):
            step, _, value = rest.partition('"} ')
            found.setdefault(step, {})[name.rpartition("_")[2]] = float(value)
    return [of_step["sum"] / of_step["count"] for of_step in found.values()]


async def _run(url: str, arguments: argparse.Namespace) -> str:
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        return await measure(
            client,
            num_jobs=arguments.jobs,
            num_blocks=arguments.blocks,
            seconds=arguments.seconds,
            load=arguments.load,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m service.bench.jobs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100, help="that wait, at most 100")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each half of a block")
    parser.add_argument("--load", type=float, default=0.4, help="requests, as a share of one after the other")
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="atelier-bench-") as folder,
        running(ServerOptions({"model": arguments.model}, None, folder)) as server,
    ):
        report = asyncio.run(_run(server.url, arguments))
    print(f"atelier {__version__}; {describe(torch.device('cpu'))}\n{report}")


if __name__ == "__main__":
    main()
