"""Plan: how a batch of images becomes paths, and which of them each step computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from service.model.engine.quality import Shortcuts
from service.model.engine.types import ImageSpec, Path, PreviewRequest, Styling, Text
from service.model.schedule import Schedule

T = TypeVar("T")
# Prompt, negative prompt, seed and guidance: jobs that agree on these (and the size) share a content path.
ContentKey = tuple[str, str, int, float | tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch of specs becomes paths. Paths are ordered as the backbone's rows need them."""

    paths: tuple[Path, ...]
    stylings: tuple[Styling | None, ...]  # one a path
    seeds: tuple[int, ...]  # one a content path
    path_of_spec: tuple[int, ...]
    watches: tuple[PreviewRequest | None, ...]  # one a spec
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
    def content_end_step(self) -> int:
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
        return [path for path in paths if step < self.content_end_step or self.paths[path].drawn]

    def sources_of(self, paths: Sequence[int]) -> list[int]:
        """The content paths that these belong to."""
        return [self.sources[path] for path in paths]

    def leaders_of(self, paths: Sequence[int], step: int) -> list[int]:
        """The content paths that these follow; after the parting step each leads itself, whoever is there."""
        return self.sources_of(paths) if step <= self.content_end_step else list(paths)

    def watched(self, step: int, present: Sequence[int]) -> list[tuple[int, PreviewRequest]]:
        """Who wants to see the image after this step, each with its place among the paths that there are.

        A path that has not forked yet is still its content path.
        """
        return [
            (present.index(path if path in present else self.sources[path]), watch)
            for path, watch in zip(self.path_of_spec, self.watches, strict=True)
            if watch is not None and step in watch.steps
        ]


def plan_of(
    specs: Sequence[ImageSpec],
    schedule: Schedule,
    texts: Mapping[str, Text],
    *,
    guidance: float,
    key_step: int,
) -> Plan:
    """The plan of specs of one size. `texts` has what `texts_of` names; guidance, key step: the model's.

    ValueError when the specs differ in key step or shortcuts, or what they ask for does not fit the schedule.
    """
    shortcuts = the_only({spec.shortcuts for spec in specs}, "choice of shortcuts")
    key_steps = {spec.styling.key_step or key_step for spec in specs if spec.styling}
    key_step = the_only(key_steps or {key_step}, "key step")
    num_steps = len(schedule.scales)
    shortcuts.check(key_step=key_step, num_steps=num_steps)
    content = {_content_key(spec, guidance): None for spec in specs}
    place = {key: index for index, key in enumerate(content)}
    paths = [_content_path(key, texts, shortcuts, num_steps) for key in content]
    stylings: list[Styling | None] = [None] * len(paths)
    path_of_spec = [place[_content_key(spec, guidance)] for spec in specs]
    for index, styling in _styled(specs):
        origin = path_of_spec[index]
        path_of_spec[index] = len(paths)
        corrected = styling.method.corrects_attention
        paths.append(replace(paths[origin], source=origin, corrected=corrected))
        stylings.append(styling)
    last_step = shortcuts.last_step(num_steps)
    return Plan(
        paths=tuple(
            # A content path that is the last to know what is drawn from it has to reach the end.
            replace(path, drawn=index in path_of_spec or key_step == last_step)
            for index, path in enumerate(paths)
        ),
        stylings=tuple(stylings),
        seeds=tuple(seed for _, _, seed, _ in content),
        path_of_spec=tuple(path_of_spec),
        watches=tuple(spec.previews for spec in specs),
        key_step=key_step,
        num_steps=last_step,
        shortcuts=shortcuts,
    )


def texts_of(spec: ImageSpec) -> tuple[str, ...]:
    """What an image has to have read."""
    return (spec.prompt, spec.negative_prompt) if spec.negative_prompt else (spec.prompt,)


def the_only(values: set[T], what: str) -> T:
    """The one value of a set. ValueError says what a batch has to agree on."""
    if len(values) != 1:
        raise ValueError(f"a batch has one {what}, not {len(values)}")
    return next(iter(values))


def _styled(specs: Sequence[ImageSpec]) -> Iterator[tuple[int, Styling]]:
    """Specs that fork, by index: uncorrected before corrected, the order that `lay_out` asks for."""
    for corrected in (False, True):
        for index, spec in enumerate(specs):
            styling = spec.styling
            if styling and styling.strength != 0 and styling.method.corrects_attention == corrected:
                yield index, styling


def _content_key(spec: ImageSpec, guidance: float) -> ContentKey:
    own = guidance if spec.guidance is None else spec.guidance
    return spec.prompt, spec.negative_prompt, spec.seed, own


def _content_path(key: ContentKey, texts: Mapping[str, Text], shortcuts: Shortcuts, num_steps: int) -> Path:
    prompt, negative, _, guidance = key
    return Path(
        texts[prompt],
        # Not texts.get: an empty prompt elsewhere in the batch is no negative prompt of this job.
        texts[negative] if negative else None,
        shortcuts.guided(_every_step(guidance, num_steps)),
    )


def _every_step(guidance: float | tuple[float, ...], num_steps: int) -> tuple[float, ...]:
    every = guidance if isinstance(guidance, tuple) else (guidance,) * num_steps
    if len(every) != num_steps:
        raise ValueError(f"guidance has {len(every)} values for {num_steps} steps")
    return every
