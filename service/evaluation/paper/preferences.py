"""Blind preferences: which image of two is better, the votes of it, and Bradley-Terry scores."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.evaluation.intervals import Estimate
from service.evaluation.paper.journal import RUN, SCORES, Record, read_records

VOTES = "votes.jsonl"
_RESAMPLES, _ROUNDS = 400, 200
# Of one imagined drawn vote between each arm and an average one: an arm that never lost has a finite score.
_PRIOR = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """Two images of one prompt and style, by two arms, in the order in which they are shown."""

    row: int
    column: int
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Vote:
    question: Question
    choice: str  # "left", "right" or "equal"


CHOICES = ("left", "right", "equal")


class Poll:
    """The questions of a run's folder, in a seeded order, and the votes so far, kept in the folder."""

    def __init__(self, folder: Path, arms: Sequence[str] = ()) -> None:
        """Of the main table's arms, unless some are named. ValueError when there are no two."""
        if not (folder / RUN).is_file():
            raise ValueError(f"{folder} has no {RUN}: name the folder of a run of `atelier evaluate paper`.")
        self.folder, self.file = folder, folder / VOTES
        records = read_records(folder / SCORES)
        known = dict.fromkeys(record["arm"] for record in records)
        self.arms = tuple(arms) or tuple(name for name in known if name in COMPARED)
        if unknown := [name for name in self.arms if name not in known]:
            raise ValueError(f"{folder} has no images of {unknown[0]}; it has {', '.join(known)}.")
        if len(set(self.arms)) < 2:
            raise ValueError("Two things at least are compared: name them by --arm, twice.")
        self.records = {(record["arm"], record["row"], record["column"]): record for record in records}
        self.questions = questions_of(self.records, self.arms)
        self.votes = [
            Vote(Question(**record["question"]), record["choice"]) for record in read_records(self.file)
        ]

    def next(self) -> Question | None:
        """The first question that has no vote; None when all have."""
        answered = {vote.question for vote in self.votes}
        return next((question for question in self.questions if question not in answered), None)

    def add(self, question: Question, choice: str) -> None:
        """Keep a vote. ValueError for another choice, and for a question that is none or is answered."""
        if choice not in CHOICES:
            raise ValueError(f"a vote is one of {', '.join(CHOICES)}, not {choice!r}")
        if question != self.next():
            raise ValueError("that is not the question which is asked now")
        vote = Vote(question, choice)
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(vote)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.votes.append(vote)

    def undo(self) -> None:
        """Take the last vote back."""
        self.votes = self.votes[:-1]
        text = "".join(json.dumps(asdict(vote)) + "\n" for vote in self.votes)
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def image(self, question: Question, side: str) -> Path:
        record = self.records[getattr(question, side), question.row, question.column]
        return self.folder / str(record["image"])

    def style_image(self, question: Question) -> Path:
        """As the control draws it: the style image at the images' size."""
        return self.folder / str(self.records["copy", question.row, question.column]["image"])

    def prompt(self, question: Question) -> str:
        return str(self.records[question.left, question.row, question.column]["prompt"])

    def scores(self) -> dict[str, Estimate]:
        """Bradley-Terry scores of the arms, the best first."""
        compared = [
            vote for vote in self.votes if {vote.question.left, vote.question.right} <= set(self.arms)
        ]
        found = estimated_scores(compared, self.arms)
        return dict(sorted(found.items(), key=lambda entry: -entry[1].value))


COMPARED = ("plain", "pfb-sac", "rep", "adain", "style-alignment")


def questions_of(
    records: dict[tuple[str, int, int], Record], arms: Sequence[str], seed: int = 0
) -> list[Question]:
    """Each pair of arms on each cell that both have drawn, once, shuffled; either may be on the left."""
    rng = np.random.default_rng(seed)
    places = sorted({(row, column) for _, row, column in records})
    found = []
    for row, column in places:
        for pair in itertools.combinations(arms, 2):
            if all((arm, row, column) in records for arm in pair):
                left, right = pair if rng.random() < 0.5 else pair[::-1]
                found.append(Question(row, column, left, right))
    return [found[index] for index in rng.permutation(len(found))]


def estimated_scores(votes: Sequence[Vote], arms: Sequence[str]) -> dict[str, Estimate]:
    """Scores in nats, whose mean is 0, with 95 % of a seeded bootstrap over the votes.

    Of two arms the first is preferred with the probability 1 / (1 + exp(second - first)).
    """
    if not votes:
        return {}
    outcomes = np.array([_outcome(vote, arms) for vote in votes], dtype=float)
    value = bradley_terry(_wins(outcomes, len(arms)))
    rng = np.random.default_rng(0)
    drawn = [outcomes[rng.integers(len(outcomes), size=len(outcomes))] for _ in range(_RESAMPLES)]
    again = bradley_terry(np.stack([_wins(resample, len(arms)) for resample in drawn]))
    low, high = np.percentile(again, (2.5, 97.5), axis=0)
    return {arm: Estimate(*map(float, found)) for arm, *found in zip(arms, value, low, high, strict=True)}


def bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores [..., arms], of how often each was preferred to each other [..., arms, arms] (Hunter, 2004)."""
    strength = np.ones(wins.shape[:-1])
    games, won = wins + np.swapaxes(wins, -1, -2), wins.sum(-1)
    for _ in range(_ROUNDS):
        total = (games / (strength[..., :, None] + strength[..., None, :])).sum(-1)
        strength = (won + _PRIOR) / (total + 2 * _PRIOR / (strength + 1))
    scores: NDArray[np.float64] = np.log(strength)
    return scores - scores.mean(-1, keepdims=True)


def _outcome(vote: Vote, arms: Sequence[str]) -> tuple[int, int, float]:
    """The arms on the left and on the right, and how much of the vote the left one has."""
    share = {"left": 1.0, "right": 0.0, "equal": 0.5}[vote.choice]
    return arms.index(vote.question.left), arms.index(vote.question.right), share


def _wins(outcomes: NDArray[np.float64], num_arms: int) -> NDArray[np.float64]:
    wins = np.zeros((num_arms, num_arms))
    left, right = outcomes[:, 0].astype(int), outcomes[:, 1].astype(int)
    np.add.at(wins, (left, right), outcomes[:, 2])
    np.add.at(wins, (right, left), 1 - outcomes[:, 2])
    return wins
