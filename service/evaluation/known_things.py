"""The last stage of `atelier train nano`: the model keeps the things that it draws well.

Every thing is drawn in every medium and read by the judge. The folder's `config.json` then lists, and its
`tokenizer.json` knows, only the things that are recognised often enough: fewer things drawn well beat more
drawn badly, and a prompt with another word gets a warning. `training.json` says what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from service.evaluation.judge import WEIGHTS, Judge, load_judge
from service.evaluation.stylisation import draw_all
from service.model.checkpoints import registry
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.config import InfinityConfig
from service.model.nano.words import SPELLINGS, THINGS, VOCABULARY
from service.training.captions import draws, full_caption
from service.training.scene import BACKGROUNDS, MEDIA, OBJECTS, Scene

NUM_CAPTIONS = 2  # of a thing in a medium
KEPT_FROM = 0.75  # share of its images in which a thing is recognised
ALWAYS = frozenset(
    ("circle", "square", "triangle", "star", "heart", "house", "tree", "fish", "mug", "car", "flower", "cat")
)
"""What nano has drawn from its first version on: kept whatever the judge says."""
_SCENES, _FIRST_SEED = 77, 9_000  # apart from those of the reports


def keep_what_is_recognised(folder: Path, judge: Path = WEIGHTS) -> None:
    """Draw and judge every thing, and rewrite the model folder for those that hold.

    FileNotFoundError when there is no model in the folder.
    """
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"There is no model in {folder}: run the stages before this one first.")
    keep_things(folder, recognised(registry.load(str(folder)), load_judge(judge)))


def scenes_of_things() -> list[Scene]:
    """Thing by thing, in its own colours, NUM_CAPTIONS of each medium."""
    scenes = []
    for index, name in enumerate(OBJECTS):
        rng = np.random.default_rng([_SCENES, index])
        for medium in MEDIA:
            for _ in range(NUM_CAPTIONS):
                background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
                scenes.append(Scene(name, "", background, medium))
    return scenes


def recognised(generator: Generator, judge: Judge) -> dict[str, float]:
    """The share of each thing's images in which the judge sees it."""
    scenes, size = scenes_of_things(), generator.default_size
    specs = [ImageSpec(full_caption(scene), _FIRST_SEED + index, size) for index, scene in enumerate(scenes)]
    seen = judge.judge(draw_all(generator, specs)).agrees("object", scenes)
    return dict(zip(OBJECTS, seen.reshape(len(OBJECTS), -1).mean(axis=1).tolist(), strict=True))


def keep_things(folder: Path, shares: Mapping[str, float]) -> tuple[str, ...]:
    """Rewrite the folder's config, vocabulary and notes for the things that hold; IDs of words stay."""
    kept = tuple(name for name in OBJECTS if shares[name] >= KEPT_FROM or name in ALWAYS)
    file = folder / "config.json"
    config = InfinityConfig.from_settings(json.loads(file.read_text()))
    if config.vocabulary is None:
        raise ValueError(f"{folder} says nothing of what it draws, so it is no model of nano's recipe")
    vocabulary = replace(config.vocabulary, draws=draws(kept), things=kept)
    file.write_text(replace(config, vocabulary=vocabulary).to_json())
    _keep_words(folder / "text_encoder" / "tokenizer.json", known_words(kept))
    notes = folder / "training.json"
    num_images = NUM_CAPTIONS * len(MEDIA)
    measured = {"kept_from": KEPT_FROM, "always_kept": sorted(ALWAYS), "images_of_a_thing": num_images}
    things = measured | {"recognised": {name: round(share, 4) for name, share in shares.items()}}
    notes.write_text(json.dumps(json.loads(notes.read_text()) | {"things": things}, indent=1) + "\n")
    return kept


def known_words(things: Iterable[str]) -> set[str]:
    """Every spelling of a part of one of the things, of a colour, a medium or a filling word."""
    names = set(things)
    heads = {VOCABULARY[word] for word in SPELLINGS}
    for thing in THINGS:
        if thing.name in names:
            spelt = (*thing.name.split(), *thing.plural.split(), *thing.synonyms)
            heads |= {VOCABULARY[word] for word in spelt}
    return {word for word, head in VOCABULARY.items() if head in heads}


def _keep_words(file: Path, known: set[str]) -> None:
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {
        word: number for word, number in vocabulary.items() if word in known or word not in VOCABULARY
    }
    file.write_text(json.dumps(tokenizer, indent=1) + "\n")
