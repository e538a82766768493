"""The schedules of Infinity as published, and schedules of one's own."""

from __future__ import annotations

import pytest

from service.model.infinity import schedules as scales
from service.model.schedule import Scale, Size

# Native sizes of the 1M budget, width by height (Infinity's table of aspect ratios).
NATIVE = ["1024x1024", "896x1120", "864x1152", "832x1248", "768x1344", "720x1440", "640x1600", "592x1776"]


def test_the_native_sizes_are_the_fifteen_published_ones_square_first() -> None:
    portrait = {Size.parse(size) for size in NATIVE}
    landscape = {Size(size.height, size.width) for size in portrait}
    ours = scales.schedules("1M")
    assert set(ours) == portrait | landscape
    assert next(iter(ours)) == Size(1024, 1024)


def test_ratios_go_by_their_published_names() -> None:
    tall = (1.0, 1.25, 1.333, 1.5, 1.75, 2.0, 2.5, 3.0)
    assert set(scales.RATIOS) == {*tall, 0.8, 0.75, 0.666, 0.571, 0.5, 0.4, 0.333}


@pytest.mark.parametrize(("budget", "num_steps"), [("0.06M", 7), ("0.25M", 10), ("0.60M", 12), ("1M", 13)])
@pytest.mark.parametrize("ratio", scales.RATIOS)
def test_a_budget_is_a_prefix_that_grows_to_the_size_of_its_ratio(
    ratio: float, budget: str, num_steps: int
) -> None:
    schedule = scales.schedule(ratio, budget)
    assert len(schedule.scales) == num_steps
    assert schedule.scales == scales.schedule(ratio, "1M").scales[:num_steps]
    assert schedule.scales[0] == Scale(1, 1)
    assert abs(schedule.size.height / schedule.size.width - ratio) < 0.01
    assert scales.rope_extent(schedule) == scales.schedule(ratio, "1M").scales[-1]
    tokens = [scale.num_tokens for scale in schedule.scales]
    assert tokens == sorted(tokens)


def test_the_square_1m_schedule_has_the_published_number_of_tokens() -> None:
    assert scales.schedule(1.0, "1M").num_tokens == 10_521


def test_a_schedule_of_ones_own_takes_the_nearest_ratio_for_its_positions() -> None:
    wide = scales.custom_schedule([(1, 1), (2, 3), (4, 6)], stride=8)
    assert wide.size == Size(48, 32)
    assert scales.rope_extent(wide) == Scale(52, 78)


@pytest.mark.parametrize(
    "text", ["64", "64x", "x64", "64X64", "0x64", "64x064", "-1x5", "1e2x64", "64x64 ", "999999x1"]
)
def test_a_size_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        Size.parse(text)
