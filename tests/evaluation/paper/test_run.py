"""A run on nano: killed and resumed to the same report, and what it leaves for people and for programs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from service.evaluation.paper.clip import Clip
from service.evaluation.paper.journal import SCORES, TIMES, read_image
from service.evaluation.paper.protocol import nano_protocol
from service.evaluation.paper.published import published
from service.evaluation.paper.report import save_report
from service.evaluation.paper.run import Run, Setup, run_paper
from service.evaluation.train_clip import WEIGHTS
from tests.support.cli import atelier
from tests.support.nano import nano, nano_judge, nano_things
from tests.support.process import ROOT, command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # another process draws, too
RECIPES = ["main", "spectra"]
SMALL = ("--num-prompts", "2", "--num-styles", "2", "--recipe", "main", "--recipe", "spectra")


@pytest.fixture(scope="module")
def setup() -> Setup:
    world = nano_protocol(2, 2, things=nano_things())
    return Setup(nano(), nano().default_size, world, Clip(WEIGHTS), judge=nano_judge())


@pytest.fixture(scope="module")
def run(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Never interrupted."""
    found = run_paper(setup, RECIPES, tmp_path_factory.mktemp("whole"))
    save_report(found)
    return found


def without_times(report: str) -> str:
    """All but the section of costs, which is the last one of both."""
    before, found, _ = report.partition("<h2>Cost</h2>" if report.startswith("<!doctype") else "## Cost")
    assert found
    return before


def test_a_run_that_was_killed_resumes_to_the_same_report_and_the_same_scores(
    run: Run, setup: Setup, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    words = command("evaluate", "paper", "--model", "nano", "--out", folder, *SMALL)
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("rep:"):  # the first batch of the sixth arm of eight is done
                process.kill()
                break
    assert process.returncode == -9
    kept = (folder / SCORES).read_text()
    assert 0 < len(kept.splitlines()) < len(run.records)
    assert not (folder / "report.html").exists()
    (folder / SCORES).write_text(kept[:-20])  # as if the power had gone while the last line was written
    drawn: list[str] = []
    resumed = run_paper(setup, RECIPES, folder, lambda arm, done, total: drawn.append(arm))
    save_report(resumed)
    assert (folder / SCORES).read_bytes() == (run.folder / SCORES).read_bytes()
    for name in ("report.html", "report.md"):
        again, whole = ((path / name).read_text() for path in (folder, run.folder))
        assert without_times(again) == without_times(whole)
    for file in (run.folder / "figures").iterdir():
        assert (folder / "figures" / file.name).read_bytes() == file.read_bytes()


def test_what_is_there_is_not_drawn_again_and_another_run_is_refused(run: Run, setup: Setup) -> None:
    times = (run.folder / TIMES).read_bytes()
    run_paper(setup, RECIPES, run.folder)
    assert (run.folder / TIMES).read_bytes() == times
    world = nano_protocol(2, 2, 2, things=nano_things())
    other = Setup(nano(), setup.size, world, setup.clip, judge=setup.judge)
    with pytest.raises(ValueError, match=r"holds another run: its protocol is .* Name another --out"):
        run_paper(other, RECIPES, run.folder)


def test_every_image_has_its_seed_its_scores_and_its_file(run: Run, setup: Setup) -> None:
    records = [json.loads(line) for line in (run.folder / SCORES).read_text().splitlines()]
    assert len(records) == 4 * 8
    for record in records:
        assert record["seed"] == setup.protocol.seed + record["row"]
        assert {"txt", "img", "worded_txt", "caption_txt", "kept", "leaked"} <= set(record)
        assert read_image(run.folder / record["image"]).shape == (64, 64, 3)
    copies = [record for record in records if record["arm"] == "copy"]
    assert all(record["img"] == pytest.approx(1, abs=1e-5) and record["leaked"] == 1 for record in copies)


def test_the_page_needs_nothing_and_keeps_published_numbers_apart(run: Run) -> None:
    page = (run.folder / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page
    measured, found, printed = page.partition("As published, not measured here")
    assert found
    for row in published().tables["main"][1:]:
        assert row.method not in measured
        assert row.method in printed
    text = (run.folder / "report.md").read_text()
    assert "style alignment, arXiv 2504.06144" in text
    assert "commit" in text or "atelier" in text
    for name in re.findall(r"\(figures/([^)]+)\)", text):
        assert (run.folder / "figures" / name).stat().st_size > 1_000


def test_prompts_without_styles_are_refused(tmp_path: Path) -> None:
    found = atelier("evaluate", "paper", "--prompts", tmp_path / "prompts", "--out", tmp_path / "out")
    assert found.exit_code == 1
    assert "--prompts FILE and --styles DIR are both needed" in found.output
