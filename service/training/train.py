"""`python -m service.training.train`: from nothing to the weights that ship. Resumes where it stopped.

Pictures are rendered first, then the image tokenizer is trained, then its decoder a little more, then the
transformer with its text encoder on the tokenizer's bits. That takes an hour and a half on two CPU cores that
have bf16 instructions, twice as long on others. `log.txt` and `sheets/` in the run's folder show how it goes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
from pathlib import Path

import torch

from service.model.nano.words import write_vocabulary
from service.training.corpus import make_corpus
from service.training.recipe import CONFIG, WEIGHTS, Recipe
from service.training.train_tokenizer import fine_tune_decoder, train_tokenizer
from service.training.train_transformer import encode_corpus, train_transformer
from service.training.trainer import Compute, fastest
from service.training.write import write_infinity


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
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    chosen = vars(parser.parse_args())
    run, out, device = chosen.pop("run"), chosen.pop("out"), chosen.pop("device")
    train(run, out, Recipe(**chosen), fastest(device))


def train(run: Path, out: Path, recipe: Recipe, compute: Compute) -> None:
    """Every stage that `run` does not hold yet. ValueError when it was begun with another recipe."""
    _begin(run, recipe)
    corpus = make_corpus(run, recipe.seed, recipe.num_images, recipe.num_outside)
    tokenizer = train_tokenizer(run, corpus, recipe, compute)
    features = encode_corpus(run, tokenizer, corpus.renders)
    fine_tune_decoder(run, tokenizer, corpus, recipe, compute)
    transformer, text_encoder = train_transformer(run, features, corpus.scenes, tokenizer, recipe, compute)
    write_infinity(out, CONFIG, transformer, tokenizer, torch.float16)
    write_vocabulary(out / "text_encoder")
    text_encoder.half().save_pretrained(out / "text_encoder")
    (out / "training.json").write_text((run / "training.json").read_text())


def _begin(run: Path, recipe: Recipe) -> None:
    """Keep recipe and commit with what they make: other checkpoints would be taken for this recipe's."""
    file, numbers = run / "training.json", dataclasses.asdict(recipe)
    run.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(json.dumps({"commit": _commit(), "recipe": numbers}, indent=1) + "\n")
    elif json.loads(file.read_text())["recipe"] != numbers:
        raise ValueError(f"{run} was begun with another recipe, {file}: give that one, or another --run")


def _commit() -> str:
    """The commit that trains, "+" after it when files differ from it; "unknown" outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
        named = subprocess.run(command, cwd=WEIGHTS, capture_output=True, text=True, check=True)  # noqa: S603
        return named.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
