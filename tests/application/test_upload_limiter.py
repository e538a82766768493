"""Upload slots: how many, how one is refused, and what is measured."""

from __future__ import annotations

import pytest

from service.application.upload_limiter import UploadLimiter
from service.errors import QueueFull
from service.metrics import Metrics
from tests.support.batcher import Clock


def limiter(max_slots: int = 2) -> tuple[UploadLimiter, Clock, Metrics]:
    metrics, clock = Metrics(), Clock()
    return UploadLimiter(max_slots=max_slots, metrics=metrics, clock=clock), clock, metrics


def test_without_a_free_slot_an_upload_is_refused_and_counted_until_one_ends() -> None:
    slots, _, metrics = limiter()
    with slots.slot():
        with (
            slots.slot(),
            pytest.raises(QueueFull, match="All 2 upload slots are taken"),
            slots.slot(),
        ):
            pass
        with slots.slot():
            assert slots.num_taken == 2
    assert slots.num_taken == 0
    refused = {"queue": "upload", "reason": "queue_full"}
    assert metrics.registry.get_sample_value("atelier_rejections_total", refused) == 1
    assert metrics.registry.get_sample_value("atelier_queue_depth", {"queue": "upload"}) == 0


def test_work_that_fails_frees_its_slot() -> None:
    slots, _, _ = limiter()
    with pytest.raises(ValueError, match="broken"), slots.slot():
        raise ValueError("broken")
    assert slots.num_taken == 0


def test_the_time_to_wait_is_what_is_inside_at_the_measured_rate() -> None:
    slots, clock, _ = limiter(max_slots=3)
    first, second = slots.slot(), slots.slot()
    first.__enter__()
    second.__enter__()
    for slot in (first, second):  # side by side: two in eight seconds are four seconds each
        clock.now += 4
        slot.__exit__(None, None, None)
    clock.now += 1000  # nobody was there, so this says nothing about the rate
    with slots.slot(), slots.slot(), slots.slot():
        assert slots.queued_seconds == pytest.approx(12.0)
        with pytest.raises(QueueFull, match="in 12 seconds") as refusal, slots.slot():
            pass
        assert refusal.value.retry_after_seconds == pytest.approx(12.0)


def test_before_anything_was_measured_the_time_to_wait_is_a_second() -> None:
    slots, _, _ = limiter(max_slots=1)
    with slots.slot(), pytest.raises(QueueFull) as refusal, slots.slot():
        pass
    assert refusal.value.retry_after_seconds == 1.0
