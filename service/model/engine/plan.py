"""Plan: how a batch of images becomes paths through the scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from service.model.backbone import AnyBackbone
from service.model.engine.quality import Shortcuts
from service.model.engine.types import Area, ContentPicture, Edit, ImageSpec, Path, Styling, Text
from service.model.schedule import Schedule

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PathEdit:
    """What one path keeps of a picture."""

    picture: ContentPicture
    num_kept_steps: float  # the first steps, whose codes are the picture's; of a part of a step, so much
    mask: Area | None = None

    @classmethod
    def of(cls, edit: Edit, first: int, num_steps: int) -> PathEdit:
        """`first` is the number of steps that are kept at structure 0."""
        return cls(edit.picture, first + edit.structure * (num_steps - first), edit.mask)

    @classmethod
    def whole(cls, edit: Edit, num_steps: int) -> PathEdit:
        """The picture itself."""
        return cls(edit.picture, num_steps)

    def weight(self, step: int) -> float:
        """How much of a step's codes is the picture's inside the mask."""
        return min(1.0, max(0.0, self.num_kept_steps - (step - 1)))


@dataclass(frozen=True, slots=True)
class ContentKey:
    """Jobs that agree on these (and the size) share a content path."""

    prompt: str | None
    negative_prompt: str
    seed: int
    guidance: tuple[float, ...]  # one value a step
    edit: PathEdit | None

    @classmethod
    def of(cls, spec: ImageSpec, backbone: AnyBackbone, num_steps: int) -> ContentKey:
        edit = None
        if spec.edit is not None and spec.styling is not None:
            edit = PathEdit.whole(spec.edit, num_steps)
        elif spec.edit is not None:
            edit = PathEdit.of(spec.edit, 0, num_steps)
        if spec.prompt is None:
            return cls(None, "", spec.seed, (1.0,) * num_steps, edit)
        guidance = backbone.guidance if spec.guidance is None else spec.guidance
        if not isinstance(guidance, tuple):
            guidance = backbone.guidance_of_steps(guidance, num_steps)
        if len(guidance) != num_steps:
            raise ValueError(f"guidance has {len(guidance)} values for {num_steps} steps")
        return cls(spec.prompt, spec.negative_prompt, spec.seed, guidance, edit)


@dataclass(frozen=True, slots=True)
class Plan:
    """The paths of a batch: content paths first, then generation paths, the corrected ones last."""

    schedule: Schedule
    paths: tuple[Path, ...]
    stylings: tuple[Styling | None, ...]  # of each path
    edits: tuple[PathEdit | None, ...]  # of each path
    seeds: tuple[int, ...]  # of each content path
    path_of_spec: tuple[int, ...]
    key_step: int
    num_steps: int
    shortcuts: Shortcuts

    @classmethod
    def of(
        cls,
        specs: Sequence[ImageSpec],
        schedule: Schedule,
        texts: Mapping[str, Text],
        backbone: AnyBackbone,
    ) -> Plan:
        """The plan of specs of one size; `texts` holds all that `texts_of` names.

        ValueError when the specs differ in key step or shortcuts, or do not fit the schedule.
        """
        shortcuts = the_only({spec.shortcuts for spec in specs}, "choice of shortcuts")
        key_steps = {spec.styling.key_step or backbone.key_step for spec in specs if spec.styling}
        key_step = the_only(key_steps or {backbone.key_step}, "key step")
        num_steps = len(schedule.scales)
        shortcuts.check(key_step=key_step, num_steps=num_steps)
        keys = [ContentKey.of(spec, backbone, num_steps) for spec in specs]
        content = list(dict.fromkeys(keys))
        paths = [_content_path(key, texts, shortcuts) for key in content]
        stylings: list[Styling | None] = [None] * len(paths)
        edits = [key.edit for key in content]
        path_of_spec = [content.index(key) for key in keys]
        for index, styling in _forking(specs):
            source = path_of_spec[index]
            path_of_spec[index] = len(paths)
            corrected = styling.method.corrects_attention
            paths.append(replace(paths[source], source=source, corrected=corrected))
            stylings.append(styling)
            edit = specs[index].edit
            edits.append(None if edit is None else PathEdit.of(edit, key_step, num_steps))
        # A path that draws codes near to a picture's compares its logits with its content path's.
        following = [
            path for path, edit in zip(paths, edits, strict=True) if edit and edit.num_kept_steps < num_steps
        ]
        needed = {*path_of_spec, *(path.source for path in following)}
        return cls(
            schedule=schedule,
            paths=tuple(replace(path, drawn=index in needed) for index, path in enumerate(paths)),
            stylings=tuple(stylings),
            edits=tuple(edits),
            seeds=tuple(key.seed for key in content),
            path_of_spec=tuple(path_of_spec),
            key_step=key_step,
            num_steps=shortcuts.last_step(num_steps),
            shortcuts=shortcuts,
        )


def texts_of(spec: ImageSpec) -> tuple[str, ...]:
    """The prompts that have to be encoded for an image."""
    if spec.prompt is None:
        return ()
    return (spec.prompt, spec.negative_prompt) if spec.negative_prompt else (spec.prompt,)


def the_only(values: set[T], what: str) -> T:
    """The one value of a set. ValueError says what a batch has to agree on."""
    if len(values) != 1:
        raise ValueError(f"a batch has one {what}, not {len(values)}")
    return next(iter(values))


def _forking(specs: Sequence[ImageSpec]) -> Iterator[tuple[int, Styling]]:
    """Specs that need a generation path, by index: uncorrected before corrected, as `lay_out_rows` asks."""
    for corrected in (False, True):
        for index, spec in enumerate(specs):
            styling = spec.styling
            if styling and styling.strength != 0 and styling.method.corrects_attention == corrected:
                yield index, styling


def _content_path(key: ContentKey, texts: Mapping[str, Text], shortcuts: Shortcuts) -> Path:
    # Not texts.get: an empty prompt elsewhere in the batch is no negative prompt of this job.
    negative = texts[key.negative_prompt] if key.negative_prompt else None
    text = None if key.prompt is None else texts[key.prompt]
    return Path(text, negative, shortcuts.shorten(key.guidance))
