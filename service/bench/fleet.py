"""`bench fleet`: a fleet of replicas, simulated from measured times of batches."""

from __future__ import annotations

import heapq
import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.bench.load import arrivals
from service.bench.report import Findings, Row, Table, Value
from service.bench.timing import percentile

FLEETS = (1, 2, 8, 64, 1000)
# Of what the fleet does with full batches.
LOADS = (0.5, 0.8, 0.95)
# Enough for a p99, and for some seconds of a thousand replicas.
MIN_REQUESTS, MAX_REQUESTS = 2000, 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is simulated. `batch_seconds` are measured, by jobs in a batch; numbers between are interpolated.

    A batch is what waits when the last one ends, as in the service. A request goes to the less busy of two
    replicas chosen at random, as Ray Serve does. Styles are asked for by Zipf's law; one that a replica does
    not have in memory costs `miss_seconds` before its request can join a batch.
    """

    batch_seconds: Mapping[int, float]
    num_replicas: int
    rate: float  # requests a second
    num_requests: int
    num_ready: int | None = None  # replicas at the start; all by default
    startup_seconds: float = 60.0  # from the decision to add a replica to its first batch
    target_queued_seconds: float = 5.0  # of work for each replica, beyond which one is added
    num_styles: int = 100_000
    zipf: float = 1.1
    num_cached_styles: int = 4096
    miss_seconds: float = 0.002
    seed: int = 0

    @property
    def max_jobs(self) -> int:
        return max(self.batch_seconds)

    def seconds_of(self, num_jobs: int) -> float:
        sizes = sorted(self.batch_seconds)
        return float(np.interp(num_jobs, sizes, [self.batch_seconds[size] for size in sizes]))

    @property
    def capacity(self) -> float:
        """Images a second of one replica, with full batches."""
        return self.max_jobs / self.batch_seconds[self.max_jobs]


@dataclass(slots=True)
class _Replica:
    ready_at: float
    queue: deque[float] = field(default_factory=deque)  # when each waiting request arrived
    num_running: int = 0
    styles: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def load(self) -> int:
        return len(self.queue) + self.num_running

    def has_style(self, style: int, num_cached: int) -> bool:
        is_hit = style in self.styles
        self.styles[style] = None
        self.styles.move_to_end(style)
        if len(self.styles) > num_cached:
            self.styles.popitem(last=False)
        return is_hit


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the simulated fleet did. GPU-seconds count replicas from the decision to start them."""

    latencies: tuple[float, ...]
    seconds: float
    gpu_seconds: float
    busy_seconds: float
    num_batches: int
    num_misses: int
    num_replicas: int  # at the end

    def values(self) -> dict[str, Value]:
        num = len(self.latencies)
        return {
            "median_seconds": statistics.median(self.latencies),
            "p95_seconds": percentile(self.latencies, 0.95),
            "p99_seconds": percentile(self.latencies, 0.99),
            "images_per_second": num / self.seconds,
            "gpu_seconds_per_image": self.gpu_seconds / num,
            "busy_share": self.busy_seconds / self.gpu_seconds,
            "jobs_in_a_batch": num / self.num_batches,
            "style_misses_per_second": self.num_misses / self.seconds,
            "num_replicas": self.num_replicas,
        }


class Simulation:
    """Discrete events: a request joins a queue, a batch ends, a replica becomes ready."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._random = np.random.default_rng(fleet.seed)
        num_ready = fleet.num_replicas if fleet.num_ready is None else fleet.num_ready
        self._replicas = [_Replica(0.0) for _ in range(num_ready)]
        self._started = [0.0] * num_ready
        self._num_usable = num_ready
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._num_events = 0
        self._latencies: list[float] = []
        self._busy = 0.0
        self._num_batches = self._num_misses = 0

    def run(self) -> Outcome:
        fleet = self._fleet
        due = arrivals(fleet.rate, fleet.num_requests / fleet.rate, fleet.seed)
        styles = self._random.zipf(fleet.zipf, len(due)) % fleet.num_styles
        choices = self._random.random((len(due), 2))
        now = 0.0
        for at, style, pair in zip(due, styles, choices, strict=True):
            now = self._run_until(at, now)
            self._arrive(at, int(style), pair)
            self._scale(at)
        now = self._run_until(float("inf"), now)
        return Outcome(
            latencies=tuple(self._latencies),
            seconds=now,
            gpu_seconds=sum(now - started for started in self._started),
            busy_seconds=self._busy,
            num_batches=self._num_batches,
            num_misses=self._num_misses,
            num_replicas=len(self._replicas),
        )

    def _run_until(self, until: float, now: float) -> float:
        while self._events and self._events[0][0] <= until:
            now, _, event = heapq.heappop(self._events)
            event(now)
        return now if until == float("inf") else until

    def _at(self, when: float, event: Callable[[float], None]) -> None:
        self._num_events += 1  # so that events of one time stay in order
        heapq.heappush(self._events, (when, self._num_events, event))

    def _arrive(self, at: float, style: int, pair: Sequence[float]) -> None:
        first, second = (self._replicas[index] for index in two_of(self._num_usable, pair))
        replica = first if first.load <= second.load else second

        def join(now: float) -> None:
            replica.queue.append(at)
            if not replica.num_running:
                self._start_batch(replica, now)

        if replica.has_style(style, self._fleet.num_cached_styles):
            join(at)
        else:
            self._num_misses += 1
            self._at(at + self._fleet.miss_seconds, join)

    def _start_batch(self, replica: _Replica, now: float) -> None:
        num = min(len(replica.queue), self._fleet.max_jobs)
        jobs = [replica.queue.popleft() for _ in range(num)]
        seconds, beside = self._times_of(num)
        replica.num_running = num
        self._busy += seconds
        self._num_batches += 1

        def end(now: float) -> None:
            self._latencies.extend(now - arrived + more for arrived, more in zip(jobs, beside, strict=True))
            replica.num_running = 0
            if replica.queue:
                self._start_batch(replica, now)

        self._at(now + seconds, end)

    def _times_of(self, num_jobs: int) -> tuple[float, Sequence[float]]:
        """Of a batch that begins now, and does not count as running yet: its own seconds, and what each of
        its requests takes beside queue and batch.
        """
        return self._fleet.seconds_of(num_jobs), [0.0] * num_jobs

    def _scale(self, now: float) -> None:
        """One replica at a time, as Ray's and KEDA's loops do between two looks."""
        fleet = self._fleet
        if len(self._replicas) == fleet.num_replicas or len(self._replicas) > self._num_usable:
            return
        waiting = sum(len(replica.queue) for replica in self._replicas) / fleet.capacity
        if waiting > fleet.target_queued_seconds * self._num_usable:
            self._replicas.append(_Replica(now + fleet.startup_seconds))
            self._started.append(now)
            self._at(now + fleet.startup_seconds, self._become_ready)

    def _become_ready(self, _: float) -> None:
        self._num_usable += 1


def two_of(num: int, pair: Sequence[float]) -> tuple[int, int]:
    """Two different indices below `num`, while there are two, from two random numbers below 1."""
    first, other = int(pair[0] * num), int(pair[1] * max(1, num - 1))
    return first, (other + 1 if other >= first else other) % num


def measure_fleet(batch_seconds: Mapping[int, float], startup_seconds: float, seed: int) -> Findings:
    """Fleets of 1 to 1,000 replicas under several loads, and one whose load doubles while replicas start."""
    rows, one = [], Fleet(batch_seconds=batch_seconds, num_replicas=1, rate=1.0, num_requests=1)
    for num_replicas in FLEETS:
        for load in LOADS:
            rate = load * num_replicas * one.capacity
            num = min(MAX_REQUESTS, max(MIN_REQUESTS, 100 * num_replicas))
            fleet = Fleet(
                batch_seconds=batch_seconds,
                num_replicas=num_replicas,
                rate=rate,
                num_requests=num,
                seed=seed,
            )
            rows.append(Row(f"{num_replicas} x {load:.0%} of capacity", Simulation(fleet).run().values()))
    surge = Fleet(
        batch_seconds=batch_seconds,
        num_replicas=16,
        num_ready=4,
        rate=1.5 * 4 * one.capacity,
        num_requests=min(MAX_REQUESTS, round(1.5 * 4 * one.capacity * 10 * startup_seconds)),
        startup_seconds=startup_seconds,
        seed=seed,
    )
    rows.append(
        Row(f"4, overloaded by half, to 16 in {startup_seconds:g} s each", Simulation(surge).run().values())
    )
    batches = ", ".join(f"{num}: {seconds:.4g} s" for num, seconds in sorted(batch_seconds.items()))
    return Findings(
        (Table("simulated fleets", tuple(rows)),),
        (
            f"Simulated, not measured, from the time of a batch by its jobs ({batches}). GPU-seconds count "
            "replicas that wait, too. Styles are asked for by Zipf's law among 100,000; no replica knows any "
            "at the start.",
        ),
    )
