"""From nothing to the weights that ship, stage by stage; `atelier train nano` runs it. Each stage resumes."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from service.model.nano.words import write_vocabulary
from service.training.corpus import Corpus, make_corpus
from service.training.recipe import CONFIG, WEIGHTS, Recipe
from service.training.sources import SOURCES, fetch, make_sprites
from service.training.train_tokenizer import fine_tune_decoder, load_tokenizer, train_tokenizer
from service.training.train_transformer import encode_corpus, load_transformer, train_transformer
from service.training.trainer import Session
from service.training.write import write_infinity


class Training:
    """The stages of one run, in its folder. ValueError when the folder was begun with another recipe."""

    def __init__(self, session: Session, recipe: Recipe) -> None:
        self.session, self.recipe = session, recipe
        _begin(session.folder, recipe)

    def fetch(self) -> None:
        """The packages, into the run's folder, by npm."""
        fetch(self.session.folder / "sources")

    def render(self) -> Corpus:
        """The sprites and the pictures to train on."""
        folder, recipe = self.session.folder, self.recipe
        make_sprites(folder / "sources", folder)
        return make_corpus(folder, recipe.seed, recipe.num_images, recipe.num_outside)

    def tokenizer(self) -> None:
        """The image tokenizer, then its decoder a little more."""
        corpus = self.render()
        tokenizer = train_tokenizer(self.session, corpus, self.recipe)
        fine_tune_decoder(self.session, tokenizer, corpus, self.recipe)

    def transformer(self) -> None:
        """Transformer and text encoder, on the tokenizer's bits."""
        corpus = self.render()
        tokenizer = load_tokenizer(self.session)
        features = encode_corpus(self.session, tokenizer, corpus.renders)
        train_transformer(self.session, features, corpus.scenes, tokenizer, self.recipe)

    def export(self, out: Path) -> None:
        """A model folder of the averages that the checkpoints hold: of a training that still runs, too.

        FileNotFoundError when there are none yet.
        """
        tokenizer = load_tokenizer(self.session)
        transformer, text_encoder, seconds = load_transformer(self.session)
        write_infinity(out, CONFIG, transformer, tokenizer, torch.float16)
        write_vocabulary(out / "text_encoder")
        text_encoder.half().save_pretrained(out / "text_encoder")
        training = json.loads((self.session.folder / "training.json").read_text())
        training["transformer_minutes"] = round(seconds / 60, 1)
        (out / "training.json").write_text(json.dumps(training, indent=1) + "\n")


def _begin(folder: Path, recipe: Recipe) -> None:
    """Keep recipe, sources and commit with what they make: no other recipe may go on with its checkpoints."""
    file, numbers = folder / "training.json", dataclasses.asdict(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        sources = [dataclasses.asdict(source) for source in SOURCES]
        begun = {"commit": _commit(), "recipe": numbers, "sources": sources}
        file.write_text(json.dumps(begun, indent=1) + "\n")
    elif json.loads(file.read_text())["recipe"] != numbers:
        raise ValueError(f"{folder} was begun with another recipe, {file}: give that one, or another --run.")


def _commit() -> str:
    """The commit that trains, "+" after it when its files differ from it; "unknown" outside a checkout."""
    code = [str(WEIGHTS.parents[2] / part) for part in ("training", "model/infinity", "model/nano/words.py")]
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    ran = subprocess.run(["git", *arguments], cwd=WEIGHTS, capture_output=True, text=True, check=True)  # noqa: S603, S607
    return ran.stdout.strip()


def until_signalled() -> Callable[[], bool]:
    """Whether SIGTERM or SIGINT has come since this call; a second one has its usual effect."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> Any:
        came.append(number)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, note)
    return lambda: bool(came)
