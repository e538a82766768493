"""Places for uploads: how many, what a refused one is told, and what is measured."""

from __future__ import annotations

import pytest

from service.application.upload_limiter import UploadLimiter
from service.errors import QueueFull
from service.metrics import Metrics
from tests.support.batcher import Clock


def admission(max_places: int = 2) -> tuple[UploadLimiter, Clock, Metrics]:
    metrics, clock = Metrics(), Clock()
    return UploadLimiter(name="upload", max_places=max_places, metrics=metrics, clock=clock), clock, metrics


def test_who_finds_no_place_is_refused_and_counted_and_one_that_ends_makes_room() -> None:
    places, _, metrics = admission()
    with places.place():
        with (
            places.place(),
            pytest.raises(QueueFull, match="All 2 places for uploads are taken"),
            places.place(),
        ):
            pass
        with places.place():
            assert places.num_taken == 2
    assert places.num_taken == 0
    refused = {"queue": "upload", "reason": "queue_full"}
    assert metrics.registry.get_sample_value("atelier_rejections_total", refused) == 1
    assert metrics.registry.get_sample_value("atelier_queue_depth", {"queue": "upload"}) == 0


def test_work_that_fails_gives_its_place_back() -> None:
    places, _, _ = admission()
    with pytest.raises(ValueError, match="broken"), places.place():
        raise ValueError("broken")
    assert places.num_taken == 0


def test_the_time_to_wait_is_what_is_inside_at_the_measured_rate() -> None:
    places, clock, _ = admission(max_places=3)
    first, second = places.place(), places.place()
    first.__enter__()
    second.__enter__()
    for each in (first, second):  # side by side: two in eight seconds are four seconds each
        clock.now += 4
        each.__exit__(None, None, None)
    clock.now += 1000  # nobody was there, so this says nothing about the rate
    with places.place(), places.place(), places.place():
        assert places.queued_seconds == pytest.approx(12.0)
        with pytest.raises(QueueFull, match="in 12 seconds") as refusal, places.place():
            pass
        assert refusal.value.retry_after_seconds == pytest.approx(12.0)


def test_before_anything_was_measured_the_time_to_wait_is_a_second() -> None:
    places, _, _ = admission(max_places=1)
    with places.place(), pytest.raises(QueueFull) as refusal, places.place():
        pass
    assert refusal.value.retry_after_seconds == 1.0
