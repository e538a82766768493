"""The overhead is what the headers leave over when the model's stages are taken away."""

from __future__ import annotations

import pytest

from service.evaluation.overhead import measure, read_overhead, report
from tests.support.server import Running

pytestmark = pytest.mark.slow


def test_what_is_not_of_the_model_is_outside_and_falls_into_three_parts() -> None:
    found = read_overhead(
        "style;dur=0.50, queue;dur=1.25, text;dur=2.00, transformer;dur=30.00, decode;dur=4.00, "
        "encode;dur=0.75, step1;dur=10.00, step2;dur=20.00, total;dur=39.00"
    )
    assert found.model == 36.5
    assert found.outside == 2.5
    assert [found.queue, found.encode, found.http] == pytest.approx([1.25, 0.75, 0.5])


def test_a_running_server_is_measured_image_by_image(server: Running) -> None:
    measured = measure(server.url, {"prompt": "a star"}, repeats=3)
    assert len(measured) == 3
    assert all(0 < each.outside < each.total for each in measured)
    assert "outside the model" in report(measured)
