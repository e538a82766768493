"""What the bench measures on the model itself: the baseline, the tables, the counts and what bounds them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.bench.flops import measure_flops
from service.bench.latency import measure_latency
from service.bench.report import Findings, Row
from service.bench.subject import Subject, SubjectOptions, load_subject
from service.bench.throughput import Bounded, bound_of, bounds, measure_throughput
from service.evaluation.flops import Count, Traffic, count
from service.evaluation.hardware import Peaks, measure_peaks
from service.evaluation.plain_form_infinity import has_plain_form
from service.evaluation.random_weights import BENCH_512, SHAPES
from service.model.schedule import Size
from tests.support.tiny import tiny_config, tiny_infinity
from tests.support.tiny_switti import served_config, tiny_switti

pytestmark = pytest.mark.slow

SQUARE, WIDE = Size(64, 64), Size(96, 64)
PEAKS = Peaks(flops_per_second=1e9, bytes_per_second=1e8)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(tiny_infinity(), SQUARE, seed=5, weights="random")


def rows(findings: Findings, title: str) -> dict[str, Row]:
    (table,) = (table for table in findings.tables if table.title == title)
    return {row.name: row for row in table.rows}


@pytest.mark.parametrize("size", [SQUARE, WIDE], ids=str)
def test_the_plain_form_draws_the_engines_image_bit_for_bit(subject: Subject, size: Size) -> None:
    at = subject.at(size)
    assert at.plain_form is not None
    found = at.plain_form.equality(at.spec(3, style=1))
    num_tokens = at.backbone.schedules[size].num_tokens
    assert (found.num_codes, found.num_different_codes) == (num_tokens * 8, 0)
    assert found.largest_difference <= 1


def test_latency_has_every_kind_of_work_every_stage_and_every_step(subject: Subject) -> None:
    found = measure_latency(subject, num_repeats=2, num_warm_up=1)
    works = rows(found, "one request at a time")
    assert list(works) == [
        "first image, cold",
        "unstylised image",
        "stylised image",
        "4 styles of one prompt",
        "edited picture in a style",
        "4 styles of one picture",
        "style of a picture",
        "plain two-run form",
    ]
    assert [row.values["num_samples"] for row in works.values()] == [1, 2, 2, 2, 2, 2, 2, 2]
    assert list(rows(found, "stages of a stylised image")) == ["text", "transformer", "decode"]
    steps = rows(found, "steps of a stylised image")
    assert [row.values["num_tokens"] for row in steps.values()] == [1, 4, 9, 16, 36, 64]
    ratios = rows(found, "times as long")
    assert "plain two-run form, to the engine" in ratios
    assert {"4 styles of one prompt, to one", "4 styles of one picture, to one"} <= set(ratios)
    assert found.notes[0].startswith("Engine and plain two-run form: 0 of 1040 bits differ")


def test_a_model_without_a_plain_form_is_measured_without_it() -> None:
    config = tiny_config(sampling=replace(tiny_config().sampling, guidance_layer=-1))
    assert not has_plain_form(config)
    found = measure_latency(Subject(tiny_infinity(config), SQUARE, 0, "random"), num_repeats=1, num_warm_up=0)
    assert "plain two-run form" not in rows(found, "one request at a time")
    assert found.notes == ("tiny has no plain form to compare with.",)


@pytest.mark.parametrize("is_causal", [False, True])
def test_swittis_plain_form_draws_the_engines_tokens(is_causal: bool) -> None:
    subject = Subject(tiny_switti(served_config(is_causal=is_causal)), SQUARE, 0, "random")
    assert subject.plain_form is not None
    for spec in (subject.spec(0, style=0), replace(subject.spec(1, style=1), negative_prompt="a dog")):
        found = subject.plain_form.equality(spec)
        assert (found.num_codes, found.num_different_codes) == (1 + 4 + 9 + 16 + 36 + 64, 0)
        assert found.largest_difference <= 1


def test_switti_is_measured_beside_its_plain_form() -> None:
    found = measure_latency(Subject(tiny_switti(), SQUARE, 0, "random"), num_repeats=1, num_warm_up=0)
    works = rows(found, "one request at a time")
    assert {"unstylised image", "stylised image", "plain two-run form"} <= set(works)
    steps = rows(found, "steps of a stylised image")
    assert [row.values["num_tokens"] for row in steps.values()] == [1, 4, 9, 16, 36, 64]
    assert found.notes[0].startswith("Engine and plain two-run form: 0 of 130 tokens differ")


def test_operations_are_counted_against_the_least_of_an_infinity_alone() -> None:
    with pytest.raises(ValueError, match="knows the least that an Infinity needs, and tiny-switti is none"):
        measure_flops(Subject(tiny_switti(), SQUARE, 0, "random"))


def test_random_weights_of_a_model_folder_are_of_its_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(served_config().to_json())
    subject = load_subject(SubjectOptions(model=str(tmp_path), is_random=True, device="cpu"))
    assert (subject.size, subject.weights) == (SQUARE, "random")
    assert subject.budget_sizes == (SQUARE,)
    with pytest.raises(ValueError, match="tiny-switti has no size 32x32; it draws 64x64"):
        subject.at(Size(32, 32))


def test_throughput_has_batches_and_styles_of_each_size_with_what_bounds_them(subject: Subject) -> None:
    within = Bounded(num_repeats=2, num_warm_up=0, most_seconds=math.inf, numbers=(1, 2))
    found = measure_throughput(subject, (SQUARE, WIDE), within, PEAKS)
    assert [table.title for table in found.tables] == ["64x64", "96x64"]
    for table in found.tables:
        assert [row.name for row in table.rows] == [
            "1 image",
            "2 images",
            "2 styles of one prompt",
        ]
        assert table.rows[0].values["median_ratio"] == 1.0
        assert {row.values["bound_by"] for row in table.rows} <= {"operations", "memory", "overhead"}
        one, two, styles = (row.values["counted_flops"] for row in table.rows)
        assert isinstance(one, int)
        assert isinstance(two, int)
        assert isinstance(styles, int)
        assert one < styles < two < 2.02 * one  # two styles share a content path


def test_what_would_take_too_long_is_left_out_and_named(subject: Subject) -> None:
    within = Bounded(num_repeats=1, num_warm_up=0, most_seconds=0.0, numbers=(1, 8))
    found = measure_throughput(subject, (SQUARE, WIDE), within, PEAKS)
    (table,) = found.tables
    assert [(row.name, row.values["num_samples"]) for row in table.rows] == [("1 image", 1)]
    left_out = [note for note in found.notes if note.startswith("Left out: ")]
    assert "96x64, where one image takes" in left_out[-1]
    assert "64x64, 8 images, about" in left_out[0]
    assert "64x64, 8 styles of one prompt, about" in left_out[1]


@pytest.mark.parametrize(
    ("flops", "num_bytes", "bound"),
    [(6e8, 1e6, "operations"), (1e6, 6e7, "memory"), (4e8, 4e7, "overhead"), (9e8, 8e7, "operations")],
)
def test_a_step_is_bound_by_the_peak_it_comes_near(flops: float, num_bytes: float, bound: str) -> None:
    assert bound_of(Count(int(flops), int(num_bytes)), 1.0, PEAKS) == bound


def test_a_batch_is_bound_by_what_most_of_its_time_is() -> None:
    overhead, operations = Count(0, 0), Count(9 * 10**8, 0)
    found = bounds([overhead, operations], [1.0, 3.0], Peaks(3e8, 1e8))
    assert found["bound_by"] == "operations"
    assert found["of_its_time_share"] == 0.75
    assert found["peak_flops_share"] == 0.75
    assert bounds([overhead, operations], [9.0, 3.0], Peaks(3e8, 1e8))["bound_by"] == "overhead"


def test_counts_of_many_jobs_follow_from_those_of_one_and_two(subject: Subject) -> None:
    one, two, five = (
        count(subject.generator, [subject.spec(0, style=style) for style in range(n)]) for n in (1, 2, 5)
    )
    for estimated, counted in zip(one.extended(two, 4).steps, five.steps, strict=True):
        assert estimated.flops == pytest.approx(counted.flops, rel=0.05)
    assert one.extended(two, 4).decode.flops == five.decode.flops


def test_counted_operations_are_not_under_the_least_that_the_method_needs(subject: Subject) -> None:
    found = measure_flops(subject)
    assert [table.title for table in found.tables] == [
        "one stylised image",
        "4 styles of one prompt",
        "plain two-run form of one, without the decoder",
    ]
    for table in found.tables:
        for row in table.rows:
            ratio = row.values["median_ratio"]
            assert isinstance(ratio, float)
            assert ratio >= 0.999, (table.title, row.name)
    one, plain = rows(found, "one stylised image")["in all"], found.tables[-1].rows[0]
    assert isinstance(one.values["median_ratio"], float)
    assert isinstance(plain.values["median_ratio"], float)
    assert plain.values["median_ratio"] > one.values["median_ratio"]


def test_traffic_counts_what_is_read_and_written_and_no_views() -> None:
    a, b = torch.zeros(10, 10), torch.zeros(10, 10)
    with Traffic() as seen:
        a.transpose(0, 1)
        a.flatten()
        torch.empty(10)
        assert seen.num_bytes == 0
        a + b
        assert seen.num_bytes == 3 * 400
        a[:5].copy_(b[:5])
        assert seen.num_bytes == 3 * 400 + 2 * 200
        b + torch.zeros(1).expand(10, 10)
    assert seen.num_bytes == 3 * 400 + 2 * 200 + 4 + 4 + 2 * 400


def test_peaks_are_rates() -> None:
    peaks = measure_peaks(torch.device("cpu"), torch.float32, side=64, copied=4096)
    assert peaks.flops_per_second > 0
    assert peaks.bytes_per_second > 0


def test_any_budget_of_a_released_shape_is_chosen_by_its_size() -> None:
    tiny = tiny_config(
        transformer=replace(tiny_config().transformer, max_scales=15),
        tokenizer=replace(tiny_config().tokenizer, stride=16, multipliers=(1, 1, 1, 1, 1)),
        grids=(),
        budget="0.06M",
    )
    subject = Subject(tiny_infinity(tiny), Size(256, 256), 0, "random")
    assert list(map(str, subject.budget_sizes)) == ["256x256", "512x512", "768x768", "1024x1024"]
    at = subject.at(Size(512, 512))
    assert len(at.backbone.schedules[at.size].scales) == 10
    assert at.backbone.transformer is subject.backbone.transformer
    with pytest.raises(ValueError, match=r"tiny has no size 500x500; it draws 256x256.*1024x1024"):
        subject.at(Size(500, 500))


def test_random_weights_need_no_files_but_a_known_shape() -> None:
    subject = load_subject(SubjectOptions(model="nano", is_random=True, device="cpu", seed=3))
    assert (subject.weights, str(subject.size)) == ("random", "64x64")
    assert {"bench-512", "infinity-2b", "infinity-8b", "bench-switti-512", "switti-512"} <= set(SHAPES)
    shape = BENCH_512.transformer
    assert (shape.depth, shape.width, shape.num_heads, BENCH_512.tokenizer.num_bits) == (8, 512, 4, 32)
    with pytest.raises(ValueError, match="no shape 'infinity-3b': give one of nano, bench-512, infinity-2b"):
        load_subject(SubjectOptions(model="infinity-3b", is_random=True, device="cpu"))


def test_equal_seeds_give_equal_work(subject: Subject) -> None:
    again = Subject(tiny_infinity(), SQUARE, seed=5, weights="random")
    assert (again.picture(3) == subject.picture(3)).all()
    assert (again.picture(4) != subject.picture(3)).any()
    assert again.picture(0).shape == (64, 64, 3)
    assert again.spec(1) == subject.spec(1)
    assert again.spec(1).prompt != subject.spec(2).prompt
