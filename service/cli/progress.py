"""Progress bars on a terminal; no output anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A smaller file loads before a bar could be read.
_MIN_BAR_BYTES = 200 * 2**20


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yields `on_progress(name, num_done, num_bytes)`, both in bytes, which keeps one bar per name."""
    if not sys.stderr.isatty():
        yield lambda name, num_done, num_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

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
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=num)
        yield lambda: progress.advance(task)
