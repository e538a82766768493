"""`python -m service.model.nano.train`: from nothing to the weights that ship. Resumes where it stopped.

Pictures are rendered first, then the image tokenizer is trained, then the transformer with its text encoder
on the tokenizer's bits, then the decoder a little more. On two CPU cores this takes about an hour and a half.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from service.model.infinity.folder import write_infinity
from service.model.nano.corpus import make_corpus
from service.model.nano.recipe import CONFIG, WEIGHTS, Recipe
from service.model.nano.train_tokenizer import fine_tune_decoder, train_tokenizer
from service.model.nano.train_transformer import encode_corpus, train_transformer
from service.model.nano.words import write_vocabulary


def main() -> None:
    recipe = Recipe()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/nano"), help="folder of pictures, checkpoints, log"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="model folder to write")
    for field in dataclasses.fields(recipe):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default, metavar="N"
        )
    chosen = vars(parser.parse_args())
    run, out = chosen.pop("run"), chosen.pop("out")
    train(run, out, Recipe(**chosen))


def train(run: Path, out: Path, recipe: Recipe) -> None:
    """Every stage that `run` does not hold yet. ValueError when it was begun with another recipe."""
    _begin(run, recipe)
    pictures, scenes = make_corpus(run, recipe.seed, recipe.num_images)
    tokenizer = train_tokenizer(run, pictures, recipe)
    features = encode_corpus(run, tokenizer, pictures)
    transformer, text_encoder = train_transformer(run, features, scenes, recipe)
    fine_tune_decoder(run, tokenizer, pictures, recipe)
    write_infinity(out, CONFIG, transformer, tokenizer, torch.float16)
    write_vocabulary(out / "text_encoder")
    text_encoder.half().save_pretrained(out / "text_encoder")


def _begin(run: Path, recipe: Recipe) -> None:
    """Keep the recipe with what it makes: checkpoints of another one would be taken for this one's."""
    file, text = run / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=1)
    run.mkdir(parents=True, exist_ok=True)
    if file.exists() and file.read_text() != text:
        raise ValueError(f"{run} was begun with another recipe, {file}: give that one, or another --run")
    file.write_text(text)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
