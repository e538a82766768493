"""The bench's measurements on a real server process, with a tiny model and few requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.bench.report import Report
from service.bench.runner import BenchOptions, run
from service.bench.server import ServerOptions, running
from service.bench.subject import SubjectOptions
from tests.support.process import write_tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder)
    return folder


def measured(kind: str, folder: Path, **changes: object) -> Report:
    options = {
        "kind": kind,
        "subject": SubjectOptions(model=str(folder), device="cpu", seed=5),
        "threads": 1,
        "num_repeats": 2,
        "num_warm_up": 0,
        "most_seconds": 60.0,
        "rates": (),
        "seconds": 0.5,
    }
    return run(BenchOptions(**(options | changes)))  # type: ignore[arg-type]


def test_a_load_counts_every_request_it_offered(folder: Path) -> None:
    report = measured("serve", folder, rates=(4.0, 100.0))
    (table,) = report.tables
    lone, slow, fast = (row.values for row in table.rows)
    assert lone["num_requests"] == 2
    assert (slow["num_requests"], fast["num_requests"]) == (2, 50)
    for values in (lone, slow, fast):
        assert values["num_failed"] == 0
        assert isinstance(values["median_ratio"], float)
        assert "queue_median_seconds" in values
    assert slow["p95_seconds"] is None
    assert slow["num_rejected"] == 0
    assert isinstance(fast["jobs_in_a_batch"], float)
    assert fast["jobs_in_a_batch"] >= 1
    assert report.conditions.size == "64x64"
    assert report.conditions.num_repeats == 2


def test_a_style_is_timed_from_upload_to_use_hot_stored_and_lost(folder: Path) -> None:
    report = measured("style", folder)
    uploads, features = report.tables
    assert [row.name for row in uploads.rows] == ["a new picture", "one that was sent before"]
    assert [row.values["num_samples"] for row in uploads.rows] == [2, 2]
    assert [row.name for row in features.rows] == [
        "in memory",
        "in the store",
        "lost, read from the picture",
    ]
    assert [row.values["num_samples"] for row in features.rows] == [2, 2, 2]
    assert len(report.conditions.weights) == 16


def test_the_loop_is_measured_idle_and_busy(folder: Path) -> None:
    report = measured("loop", folder, num_repeats=1)
    gaps, stages = report.tables
    assert [row.name for row in gaps.rows] == ["idle", "busy"]
    # Five images of six steps, five gaps each; twice as many from the two streams while busy.
    assert [row.values["num_gaps"] for row in gaps.rows] == [25, 50]
    assert stages.rows[0].values["median_ratio"] == 1.0
    assert isinstance(stages.rows[1].values["median_ratio"], float)
    assert "uploads of 2048x1024" in report.notes[0]


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    options = ServerOptions({"model": str(tmp_path), "device": "cpu"}, 1, str(tmp_path / "server"))
    with (
        pytest.raises(ValueError, match=r"The server did not start: There is no model .* config\.json"),
        running(options),
    ):
        pass
