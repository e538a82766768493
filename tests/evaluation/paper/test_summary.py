"""Estimates over a grid, and the published numbers' own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from service.evaluation.intervals import estimated_mean
from service.evaluation.paper.published import Printed, published
from service.evaluation.paper.summary import estimated_grid_mean, estimated_harmonic_mean, harmonic_mean


def test_an_interval_knows_that_images_of_one_style_are_alike() -> None:
    rng = np.random.default_rng(0)
    by_style = np.tile(rng.normal(0.5, 0.1, 10), (40, 1)) + rng.normal(0, 0.01, (40, 10))
    found, naive = estimated_grid_mean(by_style), estimated_mean(by_style.reshape(-1))
    assert found.value == pytest.approx(by_style.mean())
    # Ten styles' mean has a deviation of about 0.1 / sqrt(10).
    assert found.high - found.low == pytest.approx(2 * 1.96 * by_style.mean(0).std() / 10**0.5, rel=0.2)
    assert found.high - found.low > 3 * (naive.high - naive.low)


def test_a_constant_has_no_width_and_the_harmonic_mean_is_of_the_means() -> None:
    half, one = np.full((3, 4), 0.5), np.ones((3, 4))
    found = estimated_harmonic_mean(half, one)
    assert (found.value, found.low, found.high) == pytest.approx((2 / 3,) * 3)
    assert harmonic_mean(np.array([-0.1, 0.0]), np.array([0.9, 0.0])).tolist() == [0, 0]


def test_the_papers_printed_harmonic_means_are_those_of_its_printed_means() -> None:
    ours = [row for row in published().tables["alpha"] if row.harm is not None]
    assert len(ours) == 5
    for row in (*ours, published().tables["main"][0]):
        assert None not in (row.txt, row.img, row.harm)
        assert row.harm == pytest.approx(harmonic_of_printed(row), abs=1e-3)
    # Of three rivals the printed S_harm is 0.001 off that of the printed means; all are kept as printed.
    for row in published().tables["main"]:
        if None not in (row.txt, row.img, row.harm):
            assert row.harm == pytest.approx(harmonic_of_printed(row), abs=2e-3)


def harmonic_of_printed(row: Printed) -> float:
    return float(harmonic_mean(np.array(row.txt), np.array(row.img)))
