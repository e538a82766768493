"""The benchmark says what was measured, on what, and how often."""

from __future__ import annotations

from service.evaluation.bench import measure, report

from tests.tiny import tiny_generator


def test_every_kind_of_work_is_timed_as_often_as_asked_and_reported_with_the_machine() -> None:
    generator = tiny_generator()
    measurements = list(measure(generator, repeats=3, seed=5))
    assert [len(each.seconds) for each in measurements] == [1, 3, 3, 3, 3, 3]
    assert all(second > 0 for each in measurements for second in each.seconds)
    text = report(generator, measurements, repeats=3, seed=5)
    for part in ("torch", "model tiny, size 64x64, seed 5, 3 repetitions", "4 stylised images", "1.00x"):
        assert part in text
