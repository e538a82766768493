"""What each shortcut saves on nano in operations and time, and what it costs, to the judge and in bits.

Everything is compared on the same pairs of prompt and reference with the same seeds, so that differences are
those of the shortcut alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.evaluation.flops import count
from service.evaluation.intervals import Estimate, bootstrapped, estimated_mean
from service.evaluation.judge import Judge
from service.evaluation.stylisation import Pair, Score, draw_all, score
from service.model.engine.generator import Generator
from service.model.engine.quality import EXACT, Quality, Shortcuts
from service.model.engine.types import ImageSpec, Styling, WeightedStyle
from service.model.infinity.backbone import Infinity

JUDGED = ("kept", "leaked", "background", "medium", "vanished")
# Pairs that are drawn one at a time, by every choice in turn: for the time and for the bits.
_NUM_ALONE = 16
_WARM_UP = 2


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One choice of shortcuts against none. Shares are of the exact image's."""

    shortcuts: Shortcuts
    qualities: tuple[Quality, ...]  # of the model that stand for it
    operations: float  # share, decoder included
    seconds: Estimate  # share; median over pairs drawn alone
    score: Score
    bits: float  # share of all bits of the exact image that are the same; one left out is not
    pixels: float  # share of pixels that are the same in all three channels

    def differences(self, exact: Score) -> dict[str, Estimate]:
        """Of each judged share, from the exact one: pair by pair."""
        return {
            name: estimated_mean(
                getattr(self.score, name).astype(float) - getattr(exact, name).astype(float),
            )
            for name in JUDGED
        }

    def numbers(self, exact: Score) -> dict[str, Any]:
        """What the table shows, for machines."""
        return {
            "shortcuts": asdict(self.shortcuts),
            "qualities": self.qualities,
            "operations": self.operations,
            "seconds": asdict(self.seconds),
            "bits": self.bits,
            "pixels": self.pixels,
            "differences": {name: asdict(difference) for name, difference in self.differences(exact).items()},
        }


def choices(generator: Generator) -> list[Shortcuts]:
    """None, then every shortcut by itself, then what the model takes at each quality."""
    key, last = generator.key_step, generator.num_steps(generator.default_size)
    alone = [
        EXACT,
        *(Shortcuts(guidance_until=step) for step in reversed(range(key, last))),
        *(Shortcuts(stop_after=step) for step in reversed(range(key + 1, last))),
    ]
    return list(dict.fromkeys([*alone, *generator.qualities.shortcuts().values()]))


def evaluate_shortcuts(
    generator: Generator,
    judge: Judge,
    pairs: Sequence[Pair],
    chosen: Sequence[Shortcuts],
    clock: Callable[[], float] = time.process_time,
) -> list[Trial]:
    """A trial of each choice, of which the first must be EXACT, over all pairs.

    Time is the CPU's, of all threads: what else the machine does meanwhile counts little.
    """
    specs = [_styled(generator, pair) for pair in pairs]
    pictures = {
        shortcuts: draw_all(generator, [replace(spec, shortcuts=shortcuts) for spec in specs])
        for shortcuts in chosen
    }
    alone = specs[:_NUM_ALONE]
    shares = _shares_of_time(generator, alone, chosen, clock)
    codes = {shortcuts: _codes(generator, alone, shortcuts) for shortcuts in chosen}
    operations = {
        shortcuts: count(generator, [replace(specs[0], shortcuts=shortcuts)]).flops for shortcuts in chosen
    }
    qualities = generator.qualities.shortcuts()
    return [
        Trial(
            shortcuts=shortcuts,
            qualities=tuple(name for name, taken in qualities.items() if taken == shortcuts),
            operations=operations[shortcuts] / operations[EXACT],
            seconds=bootstrapped(shares[shortcuts], lambda ratios: float(np.median(ratios))),
            score=score(judge.judge(pictures[shortcuts]), pictures[shortcuts], pairs),
            bits=_equal_bits(codes[shortcuts], codes[EXACT]),
            pixels=float((pictures[shortcuts] == pictures[EXACT]).all(-1).mean()),
        )
        for shortcuts in chosen
    ]


def _styled(generator: Generator, pair: Pair) -> ImageSpec:
    size = generator.default_size
    style = WeightedStyle(generator.extract_style(pair.picture, size))
    return ImageSpec(pair.prompt, pair.seed, size, styling=Styling((style,)))


def _shares_of_time(
    generator: Generator,
    specs: Sequence[ImageSpec],
    chosen: Sequence[Shortcuts],
    clock: Callable[[], float],
) -> Mapping[Shortcuts, NDArray[np.float64]]:
    """[specs]: each choice's seconds over the exact ones of the same image, drawn right before or after."""
    seconds = np.empty((len(specs), len(chosen)))
    for row, spec in enumerate([*specs[:_WARM_UP], *specs]):
        for column, shortcuts in enumerate(chosen):
            began = clock()
            generator.generate([replace(spec, shortcuts=shortcuts)])
            seconds[max(0, row - _WARM_UP), column] = clock() - began
    return dict(zip(chosen, (seconds / seconds[:, :1]).T, strict=True))


def _codes(generator: Generator, specs: Sequence[ImageSpec], shortcuts: Shortcuts) -> list[list[Tensor]]:
    """For each image, drawn alone, the codes [bits, h, w] of each of its steps."""
    backbone = generator.backbone
    assert isinstance(backbone, Infinity)
    keeping = Keeping(backbone)
    drawing = Generator(keeping)
    return [keeping.codes_of(drawing, replace(spec, shortcuts=shortcuts)) for spec in specs]


def _equal_bits(found: Sequence[Sequence[Tensor]], exact: Sequence[Sequence[Tensor]]) -> float:
    equal = total = 0
    for image, whole in zip(found, exact, strict=True):
        total += sum(codes.numel() for codes in whole)
        equal += sum(int((a == b).sum()) for a, b in zip(image, whole, strict=False))
    return equal / total


class Keeping(Infinity):
    """A backbone on the same weights which keeps the codes of the last path: of one styled image, its own."""

    def __init__(self, of: Infinity) -> None:
        super().__init__(of.config, of.transformer, of.tokenizer, of.text_encoder, fingerprint=of.fingerprint)
        self._codes: list[Tensor] = []

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        codes = super().sample(*args, **kwargs)
        self._codes.append(codes[-1])
        return codes

    def codes_of(self, generator: Generator, spec: ImageSpec) -> list[Tensor]:
        self._codes = []
        generator.generate([spec])
        return self._codes


def table(trials: Sequence[Trial]) -> tuple[list[str], Iterator[list[str]]]:
    """Head and rows in per cent; of all but the first, the exact one, judged shares are differences."""
    head = ["shortcuts", "operations", "CPU time", *JUDGED, "bits", "pixels"]
    exact = trials[0].score
    estimates = exact.estimates()

    def row(trial: Trial) -> list[str]:
        names = "/".join(trial.qualities)
        judged = (
            [estimates[name].percent() for name in JUDGED]
            if trial is trials[0]
            else [_signed(difference) for difference in trial.differences(exact).values()]
        )
        return [
            f"{names}: {trial.shortcuts}" if names else str(trial.shortcuts),
            _percent(trial.operations),
            trial.seconds.percent(),
            *judged,
            _percent(trial.bits),
            _percent(trial.pixels),
        ]

    return head, map(row, trials)


def _signed(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
