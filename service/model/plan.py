"""Plan: how a batch of images becomes paths, and which of them each step computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.model.backbone import Path
from service.model.partial import Watch
from service.model.shortcuts import Shortcuts
from service.model.spec import Styling


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch of specs becomes paths. Paths are ordered as the backbone's rows need them."""

    paths: tuple[Path, ...]
    stylings: tuple[Styling | None, ...]  # one a path
    seeds: tuple[int, ...]  # one a content path
    path_of_spec: tuple[int, ...]
    watches: tuple[Watch | None, ...]  # one a spec
    key_step: int
    num_steps: int
    shortcuts: Shortcuts

    @property
    def num_content(self) -> int:
        return len(self.seeds)

    @property
    def sources(self) -> list[int]:
        """The content path that each path belongs to."""
        return [index if path.source is None else path.source for index, path in enumerate(self.paths)]

    @property
    def parting_step(self) -> int:
        """The last step of content paths that nobody asked for."""
        return self.shortcuts.correction_until or self.num_steps

    def under_way(self, step: int) -> list[int]:
        """The paths that this step has a result for: before the fork content, at the end what is drawn."""
        return list(range(self.num_content)) if step <= self.key_step else self._after(step)

    @property
    def forked(self) -> list[int]:
        """The paths that there are after the fork."""
        return self._after(self.key_step)

    def _after(self, step: int) -> list[int]:
        paths = range(len(self.paths))
        return [path for path in paths if step < self.parting_step or self.paths[path].drawn]

    def sources_of(self, paths: Sequence[int]) -> list[int]:
        """The content paths that these belong to."""
        return [self.sources[path] for path in paths]

    def leaders_of(self, paths: Sequence[int], step: int) -> list[int]:
        """The content paths that these follow; after the parting step each leads itself, whoever is there."""
        return self.sources_of(paths) if step <= self.parting_step else list(paths)

    def watched(self, step: int, present: Sequence[int]) -> list[tuple[int, Watch]]:
        """Who wants to see the image after this step, each with its place among the paths that there are.

        A path that has not forked yet is still its content path.
        """
        return [
            (present.index(path if path in present else self.sources[path]), watch)
            for path, watch in zip(self.path_of_spec, self.watches, strict=True)
            if watch is not None and step in watch.steps
        ]
