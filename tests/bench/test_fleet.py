"""The simulated fleet against what is known of queues, and against itself."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from service.bench.fleet import FLEETS, LOADS, Fleet, Simulation, two_of
from service.bench.load import TimedRequest, arrivals
from service.bench.runner import BenchOptions, run
from service.bench.subject import SubjectOptions
from service.cli.bench import _read_batch
from service.model.checkpoints.options import LoadOptions
from tests.support.fleet_check import MeasuredBatch, SharedCores, State, batches_of

pytestmark = pytest.mark.slow

ALONE = Fleet(
    batch_seconds={1: 1.0}, num_replicas=1, rate=0.5, num_requests=20_000, miss_seconds=0.0, num_styles=1
)
BATCHES = {1: 0.1, 2: 0.14, 4: 0.22, 8: 0.4}


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.8])
def test_one_replica_without_batches_waits_as_an_m_d_1_queue(rate: float) -> None:
    outcome = Simulation(replace(ALONE, rate=rate)).run()
    wait = rate / (2 * (1 - rate))  # Pollaczek and Khinchine, with a service time of 1
    assert statistics.mean(outcome.latencies) == pytest.approx(1 + wait, rel=0.05)
    assert outcome.busy_seconds == pytest.approx(20_000)
    assert outcome.num_batches == 20_000


def test_every_request_is_drawn_once_and_equal_seeds_give_equal_fleets() -> None:
    fleet = Fleet(batch_seconds=BATCHES, num_replicas=8, rate=100.0, num_requests=3000)
    first, again = Simulation(fleet).run(), Simulation(fleet).run()
    assert first == again
    assert len(first.latencies) == 3000
    assert min(first.latencies) == pytest.approx(0.1)
    assert Simulation(replace(fleet, seed=1)).run() != first


def test_batches_carry_a_load_that_one_at_a_time_could_not() -> None:
    fleet = Fleet(batch_seconds=BATCHES, num_replicas=1, rate=16.0, num_requests=3000)
    outcome = Simulation(fleet).run()
    assert statistics.median(outcome.latencies) < 2
    assert len(outcome.latencies) / outcome.num_batches > 2
    alone = Simulation(replace(fleet, batch_seconds={1: 0.1})).run()
    assert statistics.median(alone.latencies) > 30


def test_replicas_are_added_while_work_waits_and_help_once_they_have_started() -> None:
    fleet = Fleet(
        batch_seconds=BATCHES, num_replicas=6, num_ready=1, rate=40.0, num_requests=6000, startup_seconds=20.0
    )
    quick, slow = Simulation(fleet).run(), Simulation(replace(fleet, startup_seconds=100.0)).run()
    assert 1 < quick.num_replicas <= 6
    assert statistics.median(quick.latencies) < statistics.median(slow.latencies)


def test_a_replica_asks_for_a_style_once_while_it_remembers_it() -> None:
    fleet = Fleet(batch_seconds=BATCHES, num_replicas=1, rate=5.0, num_requests=500, num_styles=1)
    assert Simulation(fleet).run().num_misses == 1
    assert Simulation(replace(fleet, num_styles=1000, num_cached_styles=1)).run().num_misses > 100


def test_the_report_has_each_fleet_under_each_load_without_a_model() -> None:
    options = BenchOptions(
        kind="fleet",
        subject=SubjectOptions(
            model="nano",
            is_random=False,
            device="cpu",
            choices=LoadOptions(),
            size=None,
            seed=0,
            models_dir="unused",
        ),
        threads=None,
        num_repeats=1,
        num_warm_up=0,
        most_seconds=1.0,
        rates=(),
        seconds=1.0,
        startup_seconds=30.0,
        batch_seconds=tuple({1: 1.0, 8: 3.0}.items()),
    )
    (table,) = run(options).tables
    assert len(table.rows) == len(FLEETS) * len(LOADS) + 1
    by_name = {row.name: row.values for row in table.rows}
    busy = by_name["8 x 95% of capacity"]["busy_share"]
    assert isinstance(busy, float)
    assert 0.5 < busy <= 1


@pytest.mark.parametrize("text", ["8", "8=", "0=1", "-1=1", "8=0", "8=inf", "8=nan", "a=1"])
def test_a_batch_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 8=0\.36"):
        _read_batch(text)
    assert _read_batch("8=0.36") == (8, 0.36)


def test_the_two_replicas_that_are_compared_are_different_ones_while_there_are_two() -> None:
    pairs = [(first, second) for first in (0.0, 0.3, 0.6, 0.99) for second in (0.0, 0.3, 0.6, 0.99)]
    assert {two_of(1, pair) for pair in pairs} == {(0, 0)}
    assert {two_of(2, pair) for pair in pairs} == {(0, 1), (1, 0)}
    assert {two_of(3, pair) for pair in pairs} == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}


def request(sent: float, before: float, after: float, began: float, **stages: float) -> TimedRequest:
    """One whose response took so long to its server and back."""
    queue = began - sent - before
    total = queue + sum(stages.values())
    return TimedRequest(
        sent, sent, sent + before + total + after, 200, {"queue": queue, "total": total, **stages}
    )


def test_a_batch_is_found_from_the_times_of_its_requests_and_whether_the_other_replica_ran() -> None:
    stages = {"text": 0.001, "transformer": 0.18, "decode": 0.019, "encode": 0.002, "respond": 0.001}
    longer, shorter = stages | {"transformer": 0.28}, stages | {"transformer": 0.13}
    found = batches_of(
        [
            request(0.0, 0.008, 0.012, began=0.1, **stages),
            request(0.1, 0.02, 0.01, began=0.3, **longer),  # on the same replica, as soon as that has ended
            request(0.2, 0.004, 0.01, began=0.3, **longer),
            request(0.39, 0.002, 0.01, began=0.4, **shorter),  # on the other one
        ]
    )
    assert [batch.num_jobs for batch in found] == [1, 2, 1]
    assert [batch.seconds for batch in found] == pytest.approx([0.2, 0.3, 0.15])
    assert [batch.began for batch in found] == pytest.approx([0.1, 0.3, 0.4], abs=0.006)
    fleet = replace(ALONE, batch_seconds={1: 0.1, 2: 0.2})
    assert [batch.beside for batch in found] == [
        pytest.approx(beside) for beside in ((0.023,), (0.033, 0.017), (0.015,))
    ]
    measured = SharedCores(fleet, found).measured
    factors = {state: [slowness.factor for slowness in of_state] for state, of_state in measured.items()}
    assert factors == {
        State(is_other_computing=False, has_several_jobs=False): [pytest.approx(2.0)],
        State(is_other_computing=False, has_several_jobs=True): [pytest.approx(1.5)],
        State(is_other_computing=True, has_several_jobs=False): [pytest.approx(1.5)],
    }


@dataclass(slots=True)
class Running:
    arrived: list[float]
    began: float
    seconds_left: float  # alone


def sharing(fleet: Fleet, seed: int, slowdown: float) -> tuple[list[MeasuredBatch], list[float]]:
    """The batches, and the latencies, of two replicas that are slower whenever both compute."""
    due = deque(arrivals(fleet.rate, fleet.num_requests / fleet.rate, seed))
    random = np.random.default_rng(seed)
    queues: list[deque[float]] = [deque(), deque()]
    running: list[Running | None] = [None, None]
    batches: list[MeasuredBatch] = []
    latencies: list[float] = []
    now = 0.0
    while due or any(running):
        speed = 1 / slowdown if all(running) else 1.0
        ends = [now + batch.seconds_left / speed for batch in running if batch]
        before, now = now, min([*list(due)[:1], *ends])
        for index, batch in enumerate(running):
            if batch is None:
                continue
            batch.seconds_left -= (now - before) * speed
            if batch.seconds_left < 1e-9:
                running[index] = None
                seconds = now - batch.began
                # Of what slows a batch down a request has its share beside it, too.
                beside = seconds - fleet.seconds_of(len(batch.arrived))
                batches.append(
                    MeasuredBatch(len(batch.arrived), batch.began, seconds, (beside,) * len(batch.arrived))
                )
                latencies += [now - at + beside for at in batch.arrived]
        if due and due[0] <= now:
            loads = [
                len(queues[index]) + len(batch.arrived if batch else ())
                for index, batch in enumerate(running)
            ]
            chosen = int(random.integers(2)) if loads[0] == loads[1] else int(np.argmin(loads))
            queues[chosen].append(due.popleft())
        for index, queue in enumerate(queues):
            if queue and running[index] is None:
                jobs = [queue.popleft() for _ in range(min(len(queue), fleet.max_jobs))]
                running[index] = Running(jobs, now, fleet.seconds_of(len(jobs)))
    return batches, latencies


def test_batches_that_are_slow_together_have_the_tail_that_they_have_on_shared_cores() -> None:
    fleet = replace(ALONE, batch_seconds=BATCHES, num_replicas=2, rate=11.0, num_requests=8000)
    measured, _ = sharing(fleet, fleet.seed + 1, slowdown=1.8)
    _, real = sharing(fleet, fleet.seed, slowdown=1.8)
    apart = [replace(batch, began=1e6 * number) for number, batch in enumerate(measured)]
    together = [more for batch in measured for more in batch.beside]
    unrelated = [replace(batch, beside=tuple(together)) for batch in measured]

    def quantiles(latencies: Sequence[float]) -> list[float]:
        return [float(found) for found in np.quantile(latencies, (0.5, 0.95))]

    assert quantiles(SharedCores(fleet, measured).run().latencies) == pytest.approx(quantiles(real), rel=0.05)
    # As if a slow batch's requests took no longer beside it than others do.
    assert quantiles(SharedCores(fleet, unrelated).run().latencies)[1] < 0.97 * quantiles(real)[1]
    # As if each batch were slow by itself.
    assert quantiles(SharedCores(fleet, apart).run().latencies)[1] < 0.92 * quantiles(real)[1]
