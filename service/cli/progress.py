"""Progress bars on a terminal; no output anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

# A smaller file loads before a bar could be read.
_MIN_BAR_BYTES = 200 * 2**20


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yields `on_progress(name, num_done, num_bytes)`, both in bytes, which keeps one bar per name."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    tasks: dict[str, TaskID] = {}
    with _progress(DownloadColumn(), TransferSpeedColumn()) as progress:

        def on_progress(name: str, num_done: int, num_bytes: int) -> None:
            if num_bytes < _MIN_BAR_BYTES:
                return
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=num_bytes)
            progress.update(tasks[name], completed=num_done)

        yield on_progress


@contextmanager
def counter(num: int, what: str) -> Iterator[Callable[[], None]]:
    """Yields `count()`, which advances a bar of `num` steps by one."""
    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    with _progress(MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task(what, total=num)
        yield lambda: progress.advance(task)


@contextmanager
def shares() -> Iterator[Callable[[str, float, str], None]]:
    """Yields `report(stage, share, text)`, which keeps a bar per stage, 0 to 1, with a text."""
    from rich.progress import TaskProgressColumn, TextColumn, TimeRemainingColumn

    tasks: dict[str, TaskID] = {}
    text_column = TextColumn("{task.fields[text]}")
    with _progress(TaskProgressColumn(), TimeRemainingColumn(), text_column) as progress:

        def report(stage: str, share: float, text: str) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=1.0, text=text)
            progress.update(tasks[stage], completed=share, text=text)

        yield report


@contextmanager
def steps(what: str, num_images: int) -> Iterator[Callable[[int, int, int], None]]:
    """Yields `on_step(image, step, num_steps)`, which fills a bar of the steps of all images."""
    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    done = dict[int, int]()
    with _progress(MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task(what, total=None)

        def on_step(image: int, step: int, num_steps: int) -> None:
            done[image] = step
            progress.update(task, total=num_images * num_steps, completed=sum(done.values()))

        yield on_step


@contextmanager
def images_of(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yields `on_progress(name, num_done, num_images)`: a bar with the time that is left.

    Where there is no terminal, a line on stderr for each name.
    """
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    names = dict[str, None]()
    with _progress(MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)) as progress:
        task = progress.add_task(what, total=None)

        def on_progress(name: str, num_done: int, num_images: int) -> None:
            progress.update(task, description=name, total=num_images, completed=num_done)
            if progress.disable and name not in names:
                print(f"{name}: {num_done} of {num_images} {what}", file=sys.stderr, flush=True)
            names[name] = None

        yield on_progress


def _progress(*columns: ProgressColumn) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    shown = TextColumn("{task.description}"), BarColumn(), *columns
    is_off = not sys.stderr.isatty()
    return Progress(*shown, console=Console(stderr=True), transient=True, disable=is_off)
