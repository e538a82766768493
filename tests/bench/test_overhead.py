"""The overhead is what the headers leave over when the model's stages are taken away."""

from __future__ import annotations

import httpx2
import pytest

from service.bench.overhead import measure, read_overhead, report
from tests.support.server import Running

pytestmark = pytest.mark.slow


def test_what_is_not_of_the_model_is_outside_and_falls_into_three_parts() -> None:
    timing = (
        "style;dur=0.50, queue;dur=1.25, text;dur=2.00, transformer;dur=30.00, decode;dur=4.00, "
        "encode;dur=0.75, step1;dur=10.00, step2;dur=20.00, total;dur=39.00"
    )
    found = read_overhead(httpx2.Headers({"Server-Timing": timing}))
    assert found.model == pytest.approx(0.0365)
    assert found.outside == pytest.approx(0.0025)
    assert [found.queue, found.encode, found.http] == pytest.approx([0.00125, 0.00075, 0.0005])


def test_a_running_server_is_measured_image_by_image(server: Running) -> None:
    measured = measure(server.url, {"prompt": "a star"}, repeats=3)
    assert len(measured) == 3
    assert all(0 < overhead.outside < overhead.total for overhead in measured)
    assert "outside the model" in report(measured)
