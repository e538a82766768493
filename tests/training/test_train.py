"""The recipe of nano, run for real at a size that takes seconds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as WordTokenizer
from torch import nn

from service.model.checkpoints import registry as presets
from service.model.engine.types import ImageSpec, Styling, WeightedStyle
from service.model.nano.words import VOCABULARY, untrained_encoder, write_vocabulary
from service.training.corpus import make_corpus
from service.training.muon import Muon, orthogonalise
from service.training.outside_pictures import outside_picture
from service.training.recipe import Recipe
from service.training.scene import OBJECTS
from service.training.sources import SOURCES
from service.training.train import Training
from service.training.train_transformer import corrected_scales, describe_things
from service.training.trainer import Compute, Run, Session, Stopped, fastest
from tests.support.sprites import tiny_sprites

pytestmark = pytest.mark.slow

# A clock on which every look takes a minute: a training of three minutes has a step or two.
SHORT = Recipe(
    minutes=12, tokenizer_share=0.4, decoder_share=0.2, num_images=24, num_outside=8, tokenizer_batch=4,
    outside_share=0.25, transformer_batch=4,
)  # fmt: skip
FP32 = Compute(torch.device("cpu"), torch.float32)


def minutes() -> Callable[[], float]:
    looks = itertools.count()
    return lambda: 60.0 * next(looks)


def session(folder: Path, compute: Compute = FP32) -> Session:
    return Session(folder=folder, compute=compute, clock=minutes())


def train(run: Path, out: Path, recipe: Recipe = SHORT, compute: Compute = FP32) -> None:
    """Every stage but the fetching, with sprites drawn here."""
    tiny_sprites().save(run)
    training = Training(session(run, compute), recipe)
    training.tokenizer()
    training.transformer()
    training.export(out)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    train(folder / "run", folder / "model")
    return folder / "model"


def test_the_stages_give_a_model_folder_that_draws(model_folder: Path) -> None:
    generator = presets.load(str(model_folder))
    size = generator.default_size
    style = generator.extract_style(np.full((70, 50, 3), (200, 30, 30), np.uint8), size)
    (drawing,) = generator.generate([ImageSpec("a cat", 1, size, styling=Styling((WeightedStyle(style),)))])
    assert drawing.image.shape == (64, 64, 3)
    assert drawing.warnings == ()


def test_the_model_folder_says_what_made_it(model_folder: Path) -> None:
    training = json.loads((model_folder / "training.json").read_text())
    assert training["recipe"] == dataclasses.asdict(SHORT)
    assert training["sources"] == [dataclasses.asdict(source) for source in SOURCES]
    assert training["transformer_minutes"] >= SHORT.transformer_minutes


def test_a_finished_run_resumes_to_the_same_weights(model_folder: Path, tmp_path: Path) -> None:
    train(model_folder.parent / "run", tmp_path)
    for name in ("transformer.safetensors", "tokenizer.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (model_folder / name).read_bytes()


def test_a_run_that_was_begun_with_another_recipe_is_left_alone(model_folder: Path) -> None:
    with pytest.raises(ValueError, match="was begun with another recipe"):
        Training(session(model_folder.parent / "run"), replace(SHORT, seed=1))


def test_a_stage_without_those_before_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stages before"):
        Training(session(tmp_path), SHORT).export(tmp_path / "model")


def linear_run(folder: Path, seconds_per_look: float, *, stop_at: int | None = None) -> tuple[nn.Linear, Run]:
    """A training of ten minutes, or until a signal after so many steps."""
    torch.manual_seed(0)
    module, looks = nn.Linear(3, 2), itertools.count()
    folder.mkdir(exist_ok=True)
    run: Run
    observed = Session(
        folder=folder,
        compute=FP32,
        clock=lambda: seconds_per_look * next(looks),
        stopped=lambda: run.step == stop_at,
    )
    optimisers = [torch.optim.AdamW(module.parameters(), 0.1)]
    run = Run("linear", observed, module, optimisers, minutes=10, flat_share=0.5, decay=0.9)
    return module, run


def finish(module: nn.Linear, run: Run) -> list[float]:
    rates = []
    while not run.is_done:
        run.descend(module(torch.full((1, 3), float(run.step))).square().sum(), {})
        rates.append(run.optimisers[0].param_groups[0]["lr"])
    return rates


def test_a_signal_saves_and_the_next_run_goes_on_with_step_time_and_weights(tmp_path: Path) -> None:
    module, run = linear_run(tmp_path, 1.0, stop_at=7)
    with pytest.raises(Stopped):
        finish(module, run)
    again, resumed = linear_run(tmp_path, 1.0)
    assert resumed.step == 7
    assert torch.equal(again.weight, module.weight)
    assert resumed.elapsed_seconds == pytest.approx(run.elapsed_seconds, abs=5)
    finish(again, resumed)
    assert resumed.elapsed_seconds >= 600
    assert resumed.step > 7


@pytest.mark.parametrize("seconds_per_look", [0.25, 1.0])
def test_rates_follow_the_time_on_fast_and_slow_machines(tmp_path: Path, seconds_per_look: float) -> None:
    rates = finish(*linear_run(tmp_path, seconds_per_look))
    middle = rates[len(rates) * 2 // 5]
    assert middle == pytest.approx(0.1)
    assert rates[len(rates) * 3 // 4] == pytest.approx(0.05, rel=0.1)
    assert rates[-1] < 0.01


def test_things_that_look_alike_have_words_alike(tmp_path: Path) -> None:
    num_ids = write_vocabulary(tmp_path)
    words = WordTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    own = tiny_sprites()
    sprites = replace(own, flat=own.flat.copy(), ink=own.ink.copy())
    for kind in (sprites.flat, sprites.ink):
        kind[OBJECTS.index("cat")] = kind[OBJECTS.index("dog")]
    embedding = untrained_encoder(num_ids, 128).shared
    before = embedding.weight.detach().clone()
    describe_things(embedding, words, sprites)
    cat, dog, car = (embedding.weight[words.token_to_id(name)].detach() for name in ("cat", "dog", "car"))
    assert torch.allclose(cat, dog, atol=1e-4)
    assert (cat - car).norm() > 1
    assert torch.equal(embedding.weight[words.token_to_id("red")], before[words.token_to_id("red")])


def test_labels_after_a_flipped_bit_correct_it() -> None:
    torch.manual_seed(0)
    h = torch.randn(4, 32, 8, 8)
    clean_inputs, clean_labels = corrected_scales(h, 0.0)
    inputs, labels = corrected_scales(h, 0.3)
    assert len(inputs) == len(labels) - 1 == 4
    assert torch.equal(labels[0], clean_labels[0])
    assert not torch.equal(inputs[0], clean_inputs[0])
    assert not torch.equal(labels[1], clean_labels[1])


def test_muon_makes_every_direction_of_a_gradient_count_alike() -> None:
    matrix = torch.randn(12, 30) @ torch.diag(torch.logspace(0, -2, 30))
    values = torch.linalg.svdvals(orthogonalise(matrix[None])[0])
    assert 0.4 < values.min() < values.max() < 1.4
    kernel = nn.Parameter(torch.zeros(8, 8, 3, 3))
    F.conv2d(torch.randn(1, 8, 5, 5), kernel).sum().backward()
    Muon([kernel], 0.1).step()
    assert kernel.abs().max() > 0


def test_every_spelling_of_a_word_has_one_id_and_other_words_are_unknown(tmp_path: Path) -> None:
    num_ids = write_vocabulary(tmp_path)
    words = WordTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert num_ids == len(set(VOCABULARY.values())) + 3
    for spelling, head in VOCABULARY.items():
        assert words.encode(spelling).ids == words.encode(head).ids
    assert words.encode("A RED kitten!").ids == words.encode("a red cat").ids
    assert words.encode("zyzzyva").tokens == ["<unk>", "</s>"]


def test_pictures_from_outside_are_decided_by_their_seed_and_differ() -> None:
    first, again = (outside_picture(np.random.default_rng(4)) for _ in range(2))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    pictures = {outside_picture(np.random.default_rng(seed)).tobytes() for seed in range(60)}
    assert len(pictures) == 60


def test_half_a_corpus_is_completed(model_folder: Path, tmp_path: Path) -> None:
    run, sizes = model_folder.parent / "run", (SHORT.seed, SHORT.num_images, SHORT.num_outside)
    whole = make_corpus(run, *sizes)
    for name in ("renders.npy", "scenes.json", "sprites.npz"):
        shutil.copy(run / name, tmp_path)
    again = make_corpus(tmp_path, *sizes)
    assert np.array_equal(whole.outside, again.outside)
    assert np.array_equal(whole.renders, again.renders)
    assert whole.scenes == again.scenes


def test_the_average_can_be_looked_at_without_losing_the_weights(tmp_path: Path) -> None:
    module, run = linear_run(tmp_path, 100.0)
    finish(module, run)
    own = module.weight.detach().clone()
    with run.averaged():
        assert torch.equal(module.weight, run.average.values["weight"])
        assert not torch.equal(module.weight, own)
    assert torch.equal(module.weight, own)


def test_bf16_is_taken_only_where_it_is_faster_and_still_learns(model_folder: Path, tmp_path: Path) -> None:
    assert fastest("cpu").precision in (torch.float32, torch.bfloat16)
    (tmp_path / "run").mkdir()
    for name in ("renders.npy", "scenes.json", "outside.npy"):
        shutil.copy(model_folder.parent / "run" / name, tmp_path / "run")
    train(tmp_path / "run", tmp_path / "model", SHORT, Compute(torch.device("cpu"), torch.bfloat16))
    assert presets.load(str(tmp_path / "model")).name == "nano"


def test_matrices_are_orthogonalised_together_as_one_by_one() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(4, 6, 9)
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    assert torch.allclose(orthogonalise(matrices), alone, atol=1e-5)
