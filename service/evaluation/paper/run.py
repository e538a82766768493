"""Draw and score every arm of the chosen recipes, batch by batch; what the journal has is not drawn again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from service import __version__
from service.evaluation.hardware import describe, forget_peak, peak_bytes
from service.evaluation.judge import Judge
from service.evaluation.paper.arms import Arm, Studio
from service.evaluation.paper.clip import Clip, PictureModel
from service.evaluation.paper.journal import Batch, Journal, Record
from service.evaluation.paper.protocol import Cell, Protocol
from service.evaluation.paper.recipes import Recipe, arms_of, chosen
from service.evaluation.paper.scoring import Scorer
from service.evaluation.paper.spectra import Spectra, spectra_of
from service.model.engine.generator import Generator
from service.model.schedule import Size

OnProgress = Callable[[str, int, int], None]  # arm, images done, images in all


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """All that decides what a run finds."""

    generator: Generator
    size: Size
    protocol: Protocol
    clip: Clip
    dino: PictureModel | None = None
    judge: Judge | None = None

    def identity(self) -> dict[str, Any]:
        """What a folder's run must agree on to be gone on with."""
        return {
            "model": self.generator.name,
            "weights": self.generator.fingerprint,
            "precision": self.generator.precision,
            "size": str(self.size),
            "clip": f"{self.clip.name} {self.clip.fingerprint}",
            "dino": f"{self.dino.name} {self.dino.fingerprint}" if self.dino else None,
            "protocol": self.protocol.fingerprint,
            "num_prompts": len(self.protocol.prompts),
            "num_styles": len(self.protocol.styles),
            "seed": self.protocol.seed,
            "batch": self.batch_size,
        }

    @property
    def batch_size(self) -> int:
        """As many stylised images at once as the memory allows; only the last batch of an arm has fewer."""
        return self.generator.max_images(self.size)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A finished run: everything that its report is made of."""

    setup: Setup
    recipes: list[Recipe]
    records: list[Record]
    times: list[Record]
    spectra: Spectra | None
    machine: str
    commit: str
    folder: Path


def run_paper(
    setup: Setup,
    names: Sequence[str],
    folder: Path,
    on_progress: OnProgress = lambda arm, done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Run:
    """Draw and score what the journal in `folder` does not have yet."""
    recipes, has_spectra = chosen(names, setup.generator, setup.protocol, setup.size)
    arms = arms_of(recipes)
    journal = draw_arms(setup, arms, folder, on_progress, clock)
    shown = {arm.name for arm in arms}
    return Run(
        setup,
        recipes,
        [record for record in journal.records if record["arm"] in shown],
        [record for record in journal.times() if record["arm"] in shown],
        spectra_of(setup.generator, setup.protocol, setup.size) if has_spectra else None,
        machine=describe(setup.generator.backbone.device),
        commit=commit(),
        folder=folder,
    )


def draw_arms(
    setup: Setup,
    arms: Sequence[Arm],
    folder: Path,
    on_progress: OnProgress,
    clock: Callable[[], float] = time.perf_counter,
) -> Journal:
    """Every cell by every arm; `on_progress` is told of each batch, drawn now or before."""
    journal = Journal(folder, setup.identity())
    scorer = Scorer(setup.clip, setup.dino, setup.judge)
    studio = Studio(setup.generator, setup.size)
    cells = list(setup.protocol.cells())
    done = 0
    for arm in arms:
        for batch, part in batches(arm, cells, setup.batch_size):
            if not journal.has(batch):
                _draw_and_score(arm, batch, part, studio, scorer, journal, clock)
            done += len(part)
            on_progress(arm.name, done, len(arms) * len(cells))
    return journal


def batches(arm: Arm, cells: Sequence[Cell], size: int) -> list[tuple[Batch, Sequence[Cell]]]:
    """The cells in order, prompt by prompt, so that images of one batch share content paths."""
    size = max(1, size // arm.rows_per_image)
    parts = [cells[start : start + size] for start in range(0, len(cells), size)]
    return [(Batch(arm.name, index, len(part)), part) for index, part in enumerate(parts)]


def _draw_and_score(
    arm: Arm, batch: Batch, cells: Sequence[Cell], studio: Studio, scorer: Scorer, journal: Journal,
    clock: Callable[[], float],
) -> None:  # fmt: skip
    device = studio.generator.backbone.device
    forget_peak(device)
    began = clock()
    images = arm.draw(studio, cells)
    drawn, drawing_bytes = clock(), _most_bytes(studio)
    forget_peak(device)
    scores = scorer.score(cells, images)
    seconds = {"draw_seconds": drawn - began, "score_seconds": clock() - drawn}
    memory = {"draw_bytes": drawing_bytes, "score_bytes": _most_bytes(studio)}
    journal.add(batch, cells, images, scores, seconds | memory)


def _most_bytes(studio: Studio) -> int:
    """Of a GPU, the most that was in use since the peak was forgotten; of a CPU, what the process has now."""
    peak = peak_bytes(studio.generator.backbone.device)
    return psutil.Process().memory_info().rss if peak is None else peak


def commit() -> str:
    """The version, and the commit where this runs in a checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return f"atelier {__version__}"
    asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return f"atelier {__version__}"
    return f"atelier {__version__}, commit {found.stdout.strip()}"
