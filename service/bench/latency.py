"""`bench latency`: one request at a time, cold and warm, by stage and by step, beside the plain form."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from service.bench.report import Findings, Row, Table
from service.bench.subject import Subject
from service.bench.timing import Samples, interleaved, ratio, spread
from service.evaluation.plain_form import PlainDrawing
from service.model.engine.types import ContentPicture, Edit, ImageSpec, Timings

COLD, PLAIN, STYLISED, FOUR = "first image", "unstylised image", "stylised image", "4 styles of one prompt"
EDITED, RESTYLED = "edited picture in a style", "4 styles of one picture"
EXTRACTION, TWO_RUNS = "style of a picture", "plain two-run form"
EDITS_FROM = 1_000_000  # their prompts and seeds are not those of the other kinds


@dataclass
class _Works:
    """The kinds of work, which keep what they learn of each repetition."""

    subject: Subject
    timings: list[Timings] = field(default_factory=list)  # of the stylised image
    plainly: list[PlainDrawing] = field(default_factory=list)

    def unstylised(self, number: int) -> None:
        self.subject.generator.generate([self.subject.spec(4 * number)])

    def stylised(self, number: int) -> None:
        (drawing,) = self.subject.generator.generate([self.subject.spec(4 * number + 1, style=0)])
        self.timings.append(drawing.timings)

    def four_styles(self, number: int) -> None:
        specs = [self.subject.spec(4 * number + 2, style=style) for style in range(4)]
        self.subject.generator.generate(specs)

    def edited(self, number: int) -> None:
        self.subject.generator.generate([self._edit(2 * number, style=0)])

    def restyled(self, number: int) -> None:
        edits = [self._edit(2 * number + 1, style=style) for style in range(4)]
        self.subject.generator.generate(edits)

    def _edit(self, number: int, style: int) -> ImageSpec:
        """With a prompt, as the other kinds, and a picture that was not read before."""
        picture = ContentPicture(f"picture {number}", self.subject.picture(EDITS_FROM + number))
        edit = Edit(picture, structure=0.5)
        return replace(self.subject.spec(EDITS_FROM + number, style=style), edit=edit)

    def extraction(self, number: int) -> None:
        self.subject.generator.extract_style(self.subject.picture(8 + number), self.subject.size)

    def two_runs(self, number: int) -> None:
        plain_form = self.subject.plain_form
        assert plain_form is not None, "only a model with a plain form is measured in it"
        self.plainly.append(plain_form.draw_timed(self.subject.spec(4 * number + 3, style=0)))


def measure_latency(subject: Subject, *, num_repeats: int, num_warm_up: int) -> Findings:
    """Everything in one run, the kinds of work side by side, on one set of weights."""
    began = time.perf_counter()
    subject.generator.generate([subject.spec(0)])
    cold = Samples((time.perf_counter() - began,))
    works = _Works(subject)
    kinds = {
        PLAIN: works.unstylised,
        STYLISED: works.stylised,
        FOUR: works.four_styles,
        EDITED: works.edited,
        RESTYLED: works.restyled,
        EXTRACTION: works.extraction,
    }
    if subject.plain_form:
        kinds[TWO_RUNS] = works.two_runs
    measured = interleaved(
        kinds,
        num_repeats=num_repeats,
        num_warm_up=num_warm_up,
        cpu_clock=time.process_time if subject.is_on_cpu else None,
    )
    timings, plainly = works.timings[num_warm_up:], works.plainly[num_warm_up:]
    tables = [
        _requests(cold, measured),
        _ratios(measured, timings, plainly),
        _stages(timings),
        _steps(subject, timings),
    ]
    return Findings(tuple(tables), _notes(subject))


def _requests(cold: Samples, measured: dict[str, Samples]) -> Table:
    rows = [Row(f"{COLD}, cold", cold.values())]
    rows += [Row(name, samples.values()) for name, samples in measured.items()]
    return Table("one request at a time", tuple(rows))


def _ratios(
    measured: dict[str, Samples], timings: Sequence[Timings], plainly: Sequence[PlainDrawing]
) -> Table:
    stylised = measured[STYLISED]
    rows = [
        Row("4 styles of one prompt, to one", ratio(measured[FOUR], stylised)),
        Row("stylised image, to an unstylised one", ratio(stylised, measured[PLAIN])),
        Row("edited picture in a style, to a stylised image", ratio(measured[EDITED], stylised)),
        Row("4 styles of one picture, to one", ratio(measured[RESTYLED], measured[EDITED])),
    ]
    if plainly:
        engine = Samples(tuple(timing.text_seconds + timing.transformer_seconds for timing in timings))
        drawn = Samples(tuple(drawing.draw_seconds for drawing in plainly))
        rows.insert(0, Row("plain two-run form, to the engine", ratio(measured[TWO_RUNS], stylised)))
        rows.insert(1, Row("the same, without the decoder", ratio(drawn, engine)))
    return Table("times as long", tuple(rows))


def _stages(timings: Sequence[Timings]) -> Table:
    total = statistics.median(_total(timing) for timing in timings)
    rows = []
    for stage in ("text", "transformer", "decode"):
        samples = Samples(tuple(getattr(timing, f"{stage}_seconds") for timing in timings))
        rows.append(Row(stage, {**samples.values(), "time_share": samples.median / total}))
    return Table("stages of a stylised image", tuple(rows))


def _steps(subject: Subject, timings: Sequence[Timings]) -> Table:
    total = statistics.median(_total(timing) for timing in timings)
    rows = []
    for index, scale in enumerate(subject.backbone.schedules[subject.size].scales):
        seconds = [timing.step_seconds[index] for timing in timings]
        median, (low, high) = statistics.median(seconds), spread(seconds)
        rows.append(
            Row(
                f"step {index + 1}",
                {
                    "num_tokens": scale.num_tokens,
                    "median_seconds": median,
                    "low_seconds": low,
                    "high_seconds": high,
                    "time_share": median / total,
                },
            )
        )
    return Table("steps of a stylised image", tuple(rows))


def _notes(subject: Subject) -> tuple[str, ...]:
    """Whether the two forms that were timed against each other draw the same."""
    plain_form = subject.plain_form
    if plain_form is None:
        return (f"{subject.backbone.name} has no plain form to compare with.",)
    found = plain_form.equality(subject.spec(0, style=0))
    return (
        f"Engine and plain two-run form: {found.num_different_codes} of {found.num_codes} "
        f"{found.code} differ; "
        f"pixels by at most {found.largest_difference} of 255.",
    )


def _total(timings: Timings) -> float:
    return float(np.sum([timings.text_seconds, timings.transformer_seconds, timings.decode_seconds]))
