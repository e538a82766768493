"""What a soak test counts, and what its clients were promised."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from service.media.images import read_picture
from tests.support.uploads import picture

# What neither the images nor the style decide.
_FORM_OF_ANSWER = ("n", "stream", "partial_images", "priority", "user")


class Tally:
    """Answers by kind of request and status, and everything that should not have happened."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        self.surprises: list[str] = []
        self.probes: list[float] = []  # seconds of each `/livez`
        self._more = asyncio.Condition()

    async def count(self, kind: str, outcome: int | str) -> None:
        self.answers[kind, str(outcome)] += 1
        async with self._more:
            self._more.notify_all()

    def num_with(self, outcome: str) -> int:
        return sum(number for (_, answer), number in self.answers.items() if answer == outcome)

    def surprise(self, what: str) -> None:
        self.surprises.append(what)

    async def more(self, num_answers: int) -> None:
        """Return once there are so many answers more than now."""
        enough = self.answers.total() + num_answers
        async with self._more:
            await self._more.wait_for(lambda: self.answers.total() >= enough)

    def probes_told(self) -> str:
        ordered = sorted(self.probes) or [0.0]
        p50, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
        return f"{len(self.probes)} times, {p50:.3f} s at p50, {p99:.3f} at p99, {ordered[-1]:.3f} at most"

    def table(self) -> str:
        """A line for each kind, a column for each outcome."""
        kinds = sorted({kind for kind, _ in self.answers})
        outcomes = sorted({outcome for _, outcome in self.answers})
        lines = [f"{'':22}" + "".join(f"{outcome:>7}" for outcome in outcomes)]
        for kind in kinds:
            numbers = [self.answers[kind, outcome] for outcome in outcomes]
            lines.append(f"{kind:22}" + "".join(f"{number or '':>7}" for number in numbers))
        return "\n".join(lines)


@dataclass(frozen=True)
class Upload:
    """A picture file, and its content as the store is to keep it: lossless, and the same each time."""

    file: bytes
    content: bytes


@dataclass
class Promises:
    """What the clients were told, and will hold the service to.

    `kept` are the styles that were answered with 201, as they were answered, until somebody asks for their
    deletion; `gone` those whose deletion was confirmed. What was asked for without an answer is in neither.
    """

    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    drawn: dict[str, str] = field(default_factory=dict)
    num_made: Counter[str] = field(default_factory=Counter)  # 201s of each style that is never deleted
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1000))

    def new_upload(self) -> Upload:
        """A picture that nobody has sent before."""
        return upload_of(next(self._numbers))

    def keep(self, style: dict[str, Any], upload: Upload | None = None) -> None:
        self.kept[style["id"]] = style
        if upload is not None:
            self.contents[style["id"]] = upload.content

    def doubt(self, style_id: str) -> None:
        """Its deletion has been asked for, and not been confirmed yet."""
        self.kept.pop(style_id, None)
        self.contents.pop(style_id, None)

    def any_style(self, chance: random.Random) -> dict[str, Any] | None:
        """One that may be deleted the next moment."""
        return chance.choice(list(self.kept.values())) if self.kept else None

    def is_as_before(self, body: dict[str, Any], seed: int, style: object, image: str) -> bool:
        """Whether an image is the one that any earlier request with the same wishes got."""
        wishes = {name: value for name, value in body.items() if name not in _FORM_OF_ANSWER}
        key = json.dumps(wishes | {"seed": seed, "styles_each": style}, sort_keys=True)
        seen = hashlib.sha256(image.encode()).hexdigest()
        return self.drawn.setdefault(key, seen) == seen


def upload_of(number: int) -> Upload:
    """Each number has its own picture. Every tenth file is too long to stay in memory while it comes in."""
    file = picture(number) + bytes(2**21 if number % 10 == 0 else 0)
    content = read_picture(file, max_bytes=len(file), max_pixels=10**6).content
    return Upload(file, content)
