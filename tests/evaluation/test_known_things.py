"""A model keeps the things that it draws well: it lists and knows no others, and IDs stay as trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer as WordTokenizer

from service.evaluation.known_things import ALWAYS, KEPT_FROM, keep_things, known_words, scenes_of_things
from service.model.checkpoints import registry
from service.model.nano.words import write_vocabulary
from service.training.recipe import WEIGHTS
from service.training.scene import MEDIA, OBJECTS

pytestmark = pytest.mark.slow


def test_only_things_that_are_recognised_are_listed_and_known(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    write_vocabulary(folder / "text_encoder")
    before = WordTokenizer.from_file(str(folder / "text_encoder" / "tokenizer.json"))
    shares = dict.fromkeys(OBJECTS, 0.0) | {"fox": KEPT_FROM, "dog": KEPT_FROM - 0.01, "hot dog": 1.0}
    kept = keep_things(folder, shares)
    assert set(kept) == {*ALWAYS, "fox", "hot dog"}
    config = json.loads((folder / "config.json").read_text())
    assert config["vocabulary"]["things"] == list(kept)
    assert "a " + kept[0] in config["vocabulary"]["draws"]
    after = WordTokenizer.from_file(str(folder / "text_encoder" / "tokenizer.json"))
    for text in ("two foxes", "a vixen", "hot dog", "kittens", "red neon"):
        assert after.encode(text).ids == before.encode(text).ids
    assert after.encode("a penguin").tokens == ["a", "<unk>", "</s>"]
    assert registry.load(str(folder)).name == "nano"
    notes = json.loads((folder / "training.json").read_text())["things"]
    assert (notes["recognised"]["dog"], notes["kept_from"]) == (KEPT_FROM - 0.01, KEPT_FROM)


def test_a_word_of_a_kept_thing_stays_known() -> None:
    words = known_words(["hot dog", "mouse"])
    assert {"hot", "dog", "dogs", "mice", "red", "neon", "background", "outline"} <= words
    assert not words & {"penguin", "fox", "vixen"}


def test_every_thing_is_measured_in_every_medium() -> None:
    scenes = scenes_of_things()
    assert {(scene.object, scene.medium) for scene in scenes} == {(o, m) for o in OBJECTS for m in MEDIA}
