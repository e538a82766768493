"""`python -m tests.support.fleet_check`: the simulated fleet beside two real batchers.

The batchers are those of the service, with a model thread each; the model's work is a pause of the time that
the simulation is given, so that what is compared is queueing, batching and routing, whatever else the machine
does.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from service.batching.batcher import Batcher
from service.batching.model_thread import ModelThread
from service.bench.fleet import Fleet, Simulation
from service.bench.load import arrivals
from service.metrics import Metrics

BATCH_SECONDS = {1: 0.2, 2: 0.28, 4: 0.44, 8: 0.8}
NUM_REPLICAS, NUM_REQUESTS = 2, 600


async def measure(fleet: Fleet) -> list[float]:
    """The latencies of real batchers under the arrivals and choices that the simulation has, too."""

    def draw(inputs: Sequence[int], cancelled: Callable[[], bool]) -> Sequence[int]:
        time.sleep(fleet.seconds_of(len(inputs)))
        return inputs

    def most(_: object) -> int:
        return fleet.max_jobs

    threads = [ModelThread() for _ in range(fleet.num_replicas)]
    batchers = [
        Batcher[int, int](
            draw,
            name="generate",
            group=lambda _: 0,
            max_jobs=most,
            max_queued=NUM_REQUESTS,
            executor=thread,
            metrics=Metrics(),
        )
        for thread in threads
    ]
    for batcher in batchers:
        await batcher.start()
    running = [0] * len(batchers)
    random = np.random.default_rng(fleet.seed)
    random.zipf(fleet.zipf, fleet.num_requests)  # the simulation's styles come first
    pairs = random.random((fleet.num_requests, 2))
    began = time.perf_counter()

    async def one(due: float, pair: Sequence[float]) -> float:
        await asyncio.sleep(began + due - time.perf_counter())
        first, second = (int(share * len(batchers)) for share in pair)
        chosen = first if running[first] <= running[second] else second
        running[chosen] += 1
        await batchers[chosen].submit([0])[0].future
        running[chosen] -= 1
        return time.perf_counter() - began - due

    due = arrivals(fleet.rate, fleet.num_requests / fleet.rate, fleet.seed)
    latencies = await asyncio.gather(*map(one, due, pairs))
    for batcher, thread in zip(batchers, threads, strict=True):
        await batcher.stop()
        await asyncio.to_thread(partial(thread.shutdown))
    return list(latencies)


def main() -> None:
    print("load   of       p50     p95")
    for load in (0.5, 0.8):
        fleet = Fleet(
            batch_seconds=BATCH_SECONDS,
            num_replicas=NUM_REPLICAS,
            rate=load * NUM_REPLICAS * 8 / BATCH_SECONDS[8],
            num_requests=NUM_REQUESTS,
            num_styles=1,
            miss_seconds=0.0,
        )
        measured, simulated = asyncio.run(measure(fleet)), Simulation(fleet).run().latencies
        for name, latencies in (("real", measured), ("model", simulated)):
            p50, p95 = statistics.median(latencies), float(np.quantile(latencies, 0.95))
            print(f"{load:4.0%}  {name:6} {p50:6.3f} s {p95:6.3f} s")


if __name__ == "__main__":
    main()
