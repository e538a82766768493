"""The trade-off search: its grid has the default, and its front is what nothing beats."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.evaluation.intervals import Estimate
from service.evaluation.paper.tune import Choice, Outcome, Tuning, choices, default_of, save_tuning, tune
from tests.support.nano import nano
from tests.support.tiny import tiny_generator

pytestmark = pytest.mark.slow


def outcome(kept: float, style: float) -> Outcome:
    both = [Estimate(value, value, value) for value in (kept, style, kept, 0.0)]
    return Outcome(Choice(3, kept, style, 6), *both)


def test_the_front_is_what_nothing_beats() -> None:
    best, good, bad, equal = outcome(0.9, 0.5), outcome(0.5, 0.9), outcome(0.5, 0.5), outcome(0.9, 0.5)
    tuning = Tuning([bad, best, good, equal], bad, 4)
    assert tuning.front == [good, best, equal]
    assert best.beats(bad)
    assert not best.beats(equal)
    assert not best.beats(good)


def test_the_grid_has_every_key_step_and_the_default() -> None:
    tried = choices(nano())
    assert default_of(nano()) in tried
    assert {choice.key_step for choice in tried} == {2, 3, 4}
    assert {choice.corrected_until for choice in tried if choice.key_step == 2} == {2, 3, 5}
    assert len({choice.name for choice in tried}) == len(tried)


def test_a_search_is_drawn_judged_and_reported(tmp_path: Path) -> None:
    tried = [Choice(2, 1.0, 0.7, 3), Choice(4, 0.15, 0.7, 4)]
    tuning = tune(nano(), 3, 3, tmp_path, lambda name, done, total: None, tried)
    assert [one.choice for one in tuning.outcomes] == [*tried, default_of(nano())]
    assert tuning.default.kept.value > 0.4
    text = save_tuning(tuning, tmp_path)
    assert f"| {nano().key_step} | {nano().alpha:g} | 1 | {nano().key_step + 1} to 5 |" in text
    assert (tmp_path / "figures" / "front.svg").read_text().startswith("<?xml")


def test_a_model_of_another_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="knows only the world of nano"):
        tune(tiny_generator(), 2, 2, tmp_path, lambda name, done, total: None)
