"""The recipe of nano, run for real at a size that takes seconds."""

from __future__ import annotations

import shutil
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
from service.model.nano.words import VOCABULARY, write_vocabulary
from service.training.corpus import make_corpus
from service.training.muon import Muon, orthogonalise
from service.training.outside_pictures import outside_picture
from service.training.recipe import Recipe
from service.training.train import train
from service.training.train_transformer import corrected_scales
from service.training.trainer import Compute, Run, fastest

pytestmark = pytest.mark.slow

SHORT = Recipe(
    num_images=24, num_outside=8, tokenizer_batch=4, outside_share=0.25, tokenizer_steps=3, decoder_steps=2,
    transformer_batch=4, transformer_steps=3, checkpoint_every=2, sheet_every=3,
)  # fmt: skip
FP32 = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    train(folder / "run", folder / "model", SHORT, FP32)
    return folder / "model"


def test_one_command_gives_a_model_folder_that_draws(model_folder: Path) -> None:
    generator = presets.load(str(model_folder))
    size = generator.default_size
    style = generator.extract_style(np.full((70, 50, 3), (200, 30, 30), np.uint8), size)
    (drawing,) = generator.generate([ImageSpec("a cat", 1, size, styling=Styling((WeightedStyle(style),)))])
    assert drawing.image.shape == (64, 64, 3)
    assert drawing.warnings == ()


def test_a_finished_run_resumes_to_the_same_weights(model_folder: Path, tmp_path: Path) -> None:
    train(model_folder.parent / "run", tmp_path, SHORT, FP32)
    for name in ("transformer.safetensors", "tokenizer.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (model_folder / name).read_bytes()


def test_a_run_that_was_begun_with_another_recipe_is_left_alone(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was begun with another recipe"):
        train(model_folder.parent / "run", tmp_path, replace(SHORT, seed=1), FP32)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def finish(folder: Path, *, keep_halfway: Path | None = None) -> nn.Linear:
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        optimisers = [torch.optim.AdamW(module.parameters(), 0.1)]
        run = Run("linear", folder, module, optimisers, 0.9, checkpoint_every=2)
        while run.step < 6:
            run.descend(module(torch.full((1, 3), float(run.step))).square().sum(), 6, 0.5, {})
            if run.step == 2 and keep_halfway is not None:
                shutil.copy(folder / "linear.pt", keep_halfway)
        run.load_average()
        return module

    (tmp_path / "whole").mkdir()
    (tmp_path / "resumed").mkdir()
    whole = finish(tmp_path / "whole", keep_halfway=tmp_path / "resumed" / "linear.pt")
    resumed = finish(tmp_path / "resumed")
    assert torch.equal(whole.weight, resumed.weight)


def test_labels_after_a_flipped_bit_correct_it() -> None:
    torch.manual_seed(0)
    h = torch.randn(4, 24, 8, 8)
    clean_inputs, clean_labels = corrected_scales(h, 0.0)
    inputs, labels = corrected_scales(h, 0.3)
    assert len(inputs) == len(labels) - 1 == 5
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
    for name in ("renders.npy", "scenes.json"):
        shutil.copy(run / name, tmp_path)
    again = make_corpus(tmp_path, *sizes)
    assert np.array_equal(whole.outside, again.outside)
    assert np.array_equal(whole.renders, again.renders)
    assert whole.scenes == again.scenes


def test_the_average_can_be_looked_at_without_losing_the_weights(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    optimisers = [torch.optim.SGD(module.parameters(), 0.1)]
    run = Run("linear", tmp_path, module, optimisers, 0.9, checkpoint_every=9)
    for _ in range(3):
        run.descend(module(torch.ones(1, 2)).square().sum(), 9, 0.5, {})
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
