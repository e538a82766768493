"""A report says what was measured and on what, is kept as JSON, and is compared only with its like."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from service import __version__
from service.bench.report import Row, Table, read_report
from service.bench.tables import compare, format_value, render, render_table, require_comparable
from service.bench.timing import Samples, interleaved, percentile, ratio
from service.cli.main import cli
from tests.support.bench_reports import report
from tests.support.process import write_tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder)
    return folder


def test_the_command_prints_keeps_and_compares_a_report(folder: Path, tmp_path: Path) -> None:
    kept, again = tmp_path / "report.json", tmp_path / "again.json"
    arguments = f"bench latency --model {folder} --repeats 1 --warm-up 0 --seed 5".split()
    first = CliRunner().invoke(cli, [*arguments, "--json", str(kept)])
    assert first.exit_code == 0, first.output
    for part in (
        "model tiny",
        "size 64x64",
        "seed 5, 1 repetitions after 0",
        "plain two-run form",
        "0 of 1040",
    ):
        assert part in first.output
    other_size = [*arguments, "--size", "96x64", "--compare", str(kept)]
    refused = CliRunner().invoke(cli, other_size)
    assert refused.exit_code == 1
    assert "size (96x64 here, 64x64 there)" in refused.output
    forced = CliRunner().invoke(cli, [*other_size, "--force", "--json", str(again)])
    assert forced.exit_code == 0, forced.output
    assert "now / then" in forced.output
    assert read_report(again).kind == "latency"


def test_a_report_names_versions_hardware_threads_and_the_load_of_the_machine() -> None:
    text = render(report())
    assert f"atelier {__version__}, torch {torch.__version__}, Python {platform.python_version()}" in text
    about = report().conditions
    assert about.hardware in text
    assert f"{about.num_cores} cores; cpu, {torch.get_num_threads()} threads" in text
    assert "load of the machine" in text


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(report().to_json())
    assert read_report(file) == report(others_load=read_report(file).conditions.others_load)


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "latency"}'])
def test_a_file_that_is_no_report_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"report\.json is no report of this version"):
        read_report(file)
    with pytest.raises(ValueError, match=r"missing\.json cannot be read: No such file"):
        read_report(tmp_path / "missing.json")


def test_a_comparison_gives_now_by_then_for_what_both_measured() -> None:
    text = compare(report(0.25), report(0.5))
    assert "0.500x" in text
    assert "p99" not in text  # neither had enough samples


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hardware", "another processor"),
        ("num_cores", 9_999),
        ("num_threads", 9_999),
        ("device", "cuda"),
        ("model", "infinity-2b"),
        ("weights", "0123456789abcdef"),
        ("precision", "bf16"),
        ("size", "1024x1024"),
    ],
)
def test_reports_of_other_conditions_are_not_compared(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name.removeprefix('num_')} \(.* here, {value} there\).*--force"):
        require_comparable(report(), report(0.5, "latency", **{name: value}), Path("then.json"))


def test_reports_of_other_kinds_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"then\.json is a report of `bench serve`"):
        require_comparable(report(), report(kind="serve"), Path("then.json"))


def test_versions_seeds_and_repetitions_may_differ() -> None:
    other = report(atelier="0.0.9", torch="1.0", python="3.0", seed=9, num_warm_up=7, num_repeats=99)
    require_comparable(report(), other, Path("then.json"))


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=120))
def test_a_percentile_is_told_only_of_enough_samples(seconds: list[float]) -> None:
    assert (percentile(seconds, 0.95) is not None) == (len(seconds) >= 20)
    assert (percentile(seconds, 0.99) is not None) == (len(seconds) >= 100)
    values = Samples(tuple(seconds)).values()
    low, median, high = (values[f"{name}_seconds"] for name in ("low", "median", "high"))
    assert isinstance(low, float)
    assert isinstance(median, float)
    assert isinstance(high, float)
    assert min(seconds) <= low <= median <= high <= max(seconds)


def test_a_ratio_is_of_repetitions_that_stood_side_by_side() -> None:
    # The later repetitions were disturbed, for both alike.
    found = ratio(Samples((2.0, 200.0, 6.0), (4.0, 4.0, 4.0)), Samples((1.0, 100.0, 3.0), (1.0, 1.0, 1.0)))
    assert found == {"median_ratio": 2.0, "low_ratio": 2.0, "high_ratio": 2.0, "cpu_ratio": 4.0}


def test_kinds_of_work_take_turns_and_the_first_repetitions_do_not_count() -> None:
    done: list[tuple[str, int]] = []
    now = iter(range(1_000))

    def clock() -> float:
        return float(next(now))

    works = {name: lambda number, name=name: done.append((name, number)) for name in "ab"}
    found = interleaved(works, num_repeats=3, num_warm_up=1, clock=clock, cpu_clock=clock)
    assert done == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2), ("b", 3), ("a", 3)]
    assert {name: len(samples.wall) for name, samples in found.items()} == {"a": 3, "b": 3}
    assert set(found["a"].wall) == {2.0}
    assert interleaved(works, num_repeats=1, num_warm_up=0, cpu_clock=None)["a"].cpu == ()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("median_seconds", 0.0123, "12.3 ms"),
        ("median_seconds", 12.3, "12.3 s"),
        ("median_ratio", 2.534, "2.53x"),
        ("time_share", 0.125, "12.5 %"),
        ("counted_flops", 2.5e12, "2.5 T"),
        ("num_samples", 10, "10"),
        ("images_per_second", 0.1234, "0.123"),
        ("bound_by", "memory", "memory"),
        ("p99_seconds", None, "-"),
    ],
)
def test_a_value_is_shown_in_the_unit_of_its_name(name: str, value: float, text: str) -> None:
    assert format_value(name, value) == text


def test_a_column_without_any_value_is_left_out() -> None:
    table = Table("work", (Row("one", {"median_seconds": 1.0, "p99_seconds": None}), Row("two", {})))
    assert render_table(table).splitlines() == ["work  median", "one      1 s", "two        -"]
