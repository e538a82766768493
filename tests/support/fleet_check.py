"""The simulated fleet beside real ones.

`python -m tests.support.fleet_check`: beside two batchers of the service with a model thread each. The
model's work is a pause of the time that the simulation is given, so that what is compared is queueing,
batching and routing, whatever else the machine does.

`python -m tests.support.fleet_check --ray`: beside two replicas of nano on a real Ray, under requests over
HTTP. All times that the simulation is given are measured through the same path: those of batches while
nothing else runs; and, under a load with other arrivals, what the replicas, the ingress and the client cost
each other where they share cores: how much longer batches take, and what a request takes beside queue and
model.

How much longer is no matter of luck: a batch is slow because the other replica computes at the same time, or
because requests are coming in, and both are so when queues are long; and what slows a batch slows its
responses. Factors and times beside drawn each by itself would leave what is slow apart, and the tail too
short. So the simulation draws a measured batch, with both, of those that began while the same went on: see
`SharedCores`. Measured and compared loads take turns, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import httpx2
import numpy as np

from service.batching.batcher import Batcher
from service.batching.model_thread import ModelThread
from service.bench.fleet import Fleet, Simulation, two_of
from service.bench.load import (
    Send,
    TimedRequest,
    arrivals,
    draw_one,
    image_requests,
    new_style,
    offer,
    read_model,
)
from service.metrics import Metrics
from tests.support.ray_cluster import PATIENCE_SECONDS, cluster
from tests.support.valkey import running_server

BATCH_SECONDS = {1: 0.2, 2: 0.28, 4: 0.44, 8: 0.8}
NUM_REPLICAS, NUM_REQUESTS = 2, 600
# Of a real Ray. The load is a share of what its replicas draw without batches.
RAY_LOADS, RAY_SECONDS, RAY_TURNS = (0.35, 0.5), 45.0, 3
NUM_ROUNDS, NUM_WARM_UP = 8, 40
MODEL_STAGES, STAGES_AFTER = ("text", "transformer", "decode"), ("encode", "respond")
SEEDS_APART = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ray", action="store_true")
    asyncio.run(check_ray() if parser.parse_args().ray else check_batchers())


async def check_batchers() -> None:
    print("load   of       p50     p95")
    for load in (0.5, 0.8):
        rate = load * NUM_REPLICAS * 8 / BATCH_SECONDS[8]
        fleet = _fleet(BATCH_SECONDS, rate, NUM_REQUESTS)
        _report(load, "real", await measure(fleet))
        _report(load, "model", Simulation(fleet).run().latencies)


def _fleet(batch_seconds: dict[int, float], rate: float, num_requests: int) -> Fleet:
    return Fleet(
        batch_seconds=batch_seconds,
        num_replicas=NUM_REPLICAS,
        rate=rate,
        num_requests=num_requests,
        num_styles=1,
        miss_seconds=0.0,
    )


def _report(load: float, name: str, latencies: Sequence[float], more: str = "") -> None:
    p50, p95 = np.quantile(latencies, (0.5, 0.95))
    print(f"{load:4.0%}  {name:6} {p50:6.3f} s {p95:6.3f} s{more}", flush=True)


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
        first, second = two_of(len(batchers), pair)
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


@dataclass(frozen=True, slots=True)
class MeasuredBatch:
    num_jobs: int
    began: float  # seconds since the load did
    seconds: float
    beside: tuple[float, ...]  # what each of its requests took beside queue and batch

    def is_running(self, at: float) -> bool:
        return self.began <= at < self.began + self.seconds


@dataclass(frozen=True, slots=True)
class State:
    """What was going on when a batch began; several jobs in it say that much has just arrived."""

    is_other_computing: bool
    has_several_jobs: bool


@dataclass(frozen=True, slots=True)
class Slowness:
    """Of a measured batch: how many times as long as alone it took, and its requests beside it."""

    factor: float
    beside: tuple[float, ...]


class SharedCores(Simulation):
    """Each batch is as slow as a random one of those measured in its state; of all, if none was in it."""

    def __init__(self, fleet: Fleet, *loads: Sequence[MeasuredBatch]) -> None:
        super().__init__(fleet)
        self.measured: dict[State, list[Slowness]] = {}
        for batches in loads:
            for batch in batches:
                # A replica never runs two, so what else runs is the other's. The beginning is known to some
                # 10 ms, and what ended just then may be its own replica's: so look a moment later.
                at = batch.began + batch.seconds / 4
                is_other_computing = any(other.is_running(at) for other in batches if other is not batch)
                state = State(is_other_computing, batch.num_jobs > 1)
                slowness = Slowness(batch.seconds / fleet.seconds_of(batch.num_jobs), batch.beside)
                self.measured.setdefault(state, []).append(slowness)
        self._all = [slowness for found in self.measured.values() for slowness in found]

    def _times_of(self, num_jobs: int) -> tuple[float, Sequence[float]]:
        state = State(any(replica.num_running for replica in self._replicas), num_jobs > 1)
        found = self.measured.get(state, self._all)
        slowness = found[int(self._random.integers(len(found)))]
        alone, _ = super()._times_of(num_jobs)
        return alone * slowness.factor, self._random.choice(slowness.beside, num_jobs).tolist()


async def check_ray() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running_server(Path(folder)) as store:
            environment = {"ATELIER_REDIS_URL": store.url, "ATELIER_MODEL": "nano", "ATELIER_THREADS": "1"}
            replicas = cluster(NUM_REPLICAS, environment)
            running = await asyncio.to_thread(replicas.__enter__)
            try:
                limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
                async with httpx2.AsyncClient(
                    base_url=running.url, timeout=PATIENCE_SECONDS, limits=limits
                ) as client:
                    await _compare(client)
            finally:
                await asyncio.to_thread(replicas.__exit__, None, None, None)


async def _compare(client: httpx2.AsyncClient) -> None:
    style, size = await new_style(client, 0), (await read_model(client)).sizes[0]
    requests = partial(image_requests, client, style=style, size=size)
    await offer([0.0] * NUM_WARM_UP, requests(seed=9 * SEEDS_APART))
    batch_seconds = await _batch_seconds(client, style)
    print("a batch takes", ", ".join(f"{num}: {1000 * at:.0f} ms" for num, at in batch_seconds.items()))
    print("load   of       p50     p95       images/s")
    seeds = iter(range(SEEDS_APART, 100 * SEEDS_APART, SEEDS_APART))
    for load in RAY_LOADS:
        rate = load * NUM_REPLICAS / batch_seconds[1]
        fleet = _fleet(batch_seconds, rate, round(rate * RAY_SECONDS))
        turns = [replace(fleet, seed=seed) for seed in range(RAY_TURNS)]
        measured, real = [], []
        for turn in turns:
            other = await _offered(turn, RAY_TURNS + turn.seed, requests(seed=next(seeds)))
            measured.append(batches_of(other))
            real.append(await _offered(turn, turn.seed, requests(seed=next(seeds))))
        shared = [SharedCores(turn, *measured) for turn in turns]
        modelled, plain = [model.run() for model in shared], [Simulation(turn).run() for turn in turns]
        _report_turns(
            load,
            "real",
            [[request.latency for request in turn] for turn in real],
            [max(request.ended for request in turn) for turn in real],
        )
        for name, outcomes in (
            ("model", modelled),
            ("plain", plain),  # of replicas that share nothing, without an ingress
        ):
            _report_turns(
                load,
                name,
                [outcome.latencies for outcome in outcomes],
                [outcome.seconds for outcome in outcomes],
            )
        beside = [more for batches in measured for batch in batches for more in batch.beside]
        print(f"      other arrivals: a request takes {1000 * statistics.mean(beside):.0f} ms beside both")
        for state, found in shared[0].measured.items():
            factor = statistics.mean(slowness.factor for slowness in found)
            print(f"      {len(found)} batches take {factor:.2f} times as long: {state}")


def _report_turns(
    load: float, name: str, latencies: Sequence[Sequence[float]], seconds: Sequence[float]
) -> None:
    """All turns together, and the p95 of each."""
    together = [latency for turn in latencies for latency in turn]
    each = ", ".join(f"{np.quantile(turn, 0.95):.3f}" for turn in latencies)
    _report(load, name, together, f" {len(together) / sum(seconds):8.2f}   p95 by turn: {each} s")


async def _batch_seconds(client: httpx2.AsyncClient, style: str) -> dict[int, float]:
    """Of requests for so many images, one after the other: each is one batch."""

    def asking_for(num: int) -> Send:
        async def send(number: int) -> httpx2.Response:
            body = {"prompt": f"a red star {number}", "style": style, "seed": 100 * number, "n": num}
            return await client.post("/v1/images/generations", json=body)

        return send

    found: dict[int, list[float]] = {num: [] for num in BATCH_SECONDS}
    for number in range(NUM_ROUNDS):
        for num, seconds in found.items():
            seconds.append(_model(await draw_one(asking_for(num), number)))
    return {num: statistics.median(seconds) for num, seconds in found.items()}


async def _offered(fleet: Fleet, seed: int, send: Send) -> list[TimedRequest]:
    found = await offer(arrivals(fleet.rate, fleet.num_requests / fleet.rate, seed), send)
    statuses = Counter(request.status for request in found)
    if set(statuses) != {200}:
        raise ValueError(f"The replicas answered {dict(statuses)}.")
    return found


def _model(request: TimedRequest) -> float:
    return sum(request.stages[stage] for stage in MODEL_STAGES)


def batches_of(requests: Sequence[TimedRequest]) -> list[MeasuredBatch]:
    """All requests of a batch tell the same of it, to 0.01 ms in each stage.

    The server tells no time of day. What a request takes outside of it is half before and half after: that is
    where the batch lies to within some 10 ms.
    """
    batches: dict[tuple[float, ...], list[TimedRequest]] = {}
    for request in requests:
        batches.setdefault(tuple(request.stages[stage] for stage in MODEL_STAGES), []).append(request)
    return [
        MeasuredBatch(
            len(drawn),
            began=statistics.median(map(_ended, drawn)) - sum(stages),
            seconds=sum(stages),
            beside=tuple(request.latency - sum(stages) - request.stages["queue"] for request in drawn),
        )
        for stages, drawn in batches.items()
    ]


def _ended(request: TimedRequest) -> float:
    """When the batch of this request did."""
    outside = request.ended - request.sent - request.stages["total"]
    return request.ended - outside / 2 - sum(request.stages[stage] for stage in STAGES_AFTER)


if __name__ == "__main__":
    main()
