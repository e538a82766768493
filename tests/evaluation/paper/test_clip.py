"""S_txt, S_img and S_harm: as `transformers` computes them directly, and what they make of controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from service.evaluation.paper.clip import Clip, PictureModel
from service.evaluation.paper.protocol import Protocol, nano_protocol
from service.evaluation.paper.scoring import Scorer
from service.evaluation.paper.summary import estimated_harmonic_mean
from service.evaluation.references import report_references
from service.evaluation.train_clip import WEIGHTS
from service.model.engine.types import ImageSpec
from service.training.captions import full_caption
from tests.support.nano import nano, nano_judge, nano_things
from tests.support.picture_models import write_clip, write_dino, write_siglip

pytestmark = pytest.mark.slow
Pictures = list[NDArray[np.uint8]]


@pytest.fixture(scope="module")
def protocol() -> Protocol:
    return nano_protocol(4, 4, things=nano_things())


def drawn(prompts: list[str]) -> Pictures:
    size = nano().default_size
    return [found.image for found in nano().generate([ImageSpec(prompt, 1, size) for prompt in prompts])]


def directly(
    folder: Path, images: Pictures, prompts: list[str], styles: Pictures
) -> tuple[float, float, float]:
    """By the model's own `forward`, one image at a time, and nothing of ours."""
    model, tokenizer = (
        CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    text_scores, image_scores = [], []
    with torch.no_grad():
        for image, prompt, style in zip(images, prompts, styles, strict=True):
            read = tokenizer([prompt], return_tensors="pt")
            pixels = processor(images=[image, style], return_tensors="pt")["pixel_values"]
            found = model(
                input_ids=read["input_ids"], attention_mask=read["attention_mask"], pixel_values=pixels
            )
            text_scores.append((found.logits_per_image[0, 0] / model.logit_scale.exp()).item())
            own, other = found.image_embeds
            image_scores.append((own @ other / own.norm() / other.norm()).item())
    s_txt, s_img = float(np.mean(text_scores)), float(np.mean(image_scores))
    return s_txt, s_img, 2 * s_txt * s_img / (s_txt + s_img)


def test_the_scores_are_those_of_a_direct_computation(protocol: Protocol, tmp_path: Path) -> None:
    for folder in (WEIGHTS, write_clip(tmp_path / "random")):
        cells = list(protocol.cells())
        images = [reference.picture for reference in report_references()[: len(cells)]]
        records = Scorer(Clip(folder)).score(cells, images)
        txt, img = (np.array([[record[name] for record in records]]) for name in ("txt", "img"))
        expected = directly(
            folder, images, [cell.prompt for cell in cells], [cell.style.picture for cell in cells]
        )
        harm = estimated_harmonic_mean(txt, img).value
        if expected[0] > 0:  # random weights may well say the opposite of a prompt
            assert harm == pytest.approx(expected[2], abs=2e-5)
        assert (txt.mean(), img.mean()) == pytest.approx(expected[:2], abs=2e-5)


def test_a_shuffled_pairing_scores_lower_and_controls_are_in_their_places(protocol: Protocol) -> None:
    cells = list(protocol.cells())
    images_of = {
        "perfect": drawn([cell.worded for cell in cells]),  # nano knows the words of its own styles
        "copy": [cell.style.picture for cell in cells],
        "plain": drawn([f"{cell.prompt} on a white background, flat style" for cell in cells]),
    }
    scorer = Scorer(Clip(WEIGHTS), judge=nano_judge())
    means = {}
    for name, images in images_of.items():
        records = scorer.score(cells, images)
        means[name] = {score: float(np.mean([record[score] for record in records])) for score in records[0]}
    perfects, copies, plains = means["perfect"], means["copy"], means["plain"]
    assert perfects["other_txt"] < perfects["txt"] - 0.05
    assert perfects["other_img"] < perfects["img"] - 0.1
    assert copies["img"] == pytest.approx(1, abs=1e-5)
    assert copies["txt"] < perfects["txt"] - 0.05
    assert plains["img"] < perfects["img"] - 0.1
    assert copies["caption_txt"] > perfects["caption_txt"] > plains["caption_txt"]
    assert perfects["worded_txt"] > max(copies["worded_txt"], plains["worded_txt"])
    assert (copies["leaked"], copies["kept"]) == (1, 0)
    assert perfects["kept"] > 0.5 > 0.1 > perfects["leaked"]


def test_the_tiny_clip_tells_held_out_renders_apart() -> None:
    references, clip = report_references()[:32], Clip(WEIGHTS)
    texts = clip.texts([full_caption(reference.scene) for reference in references])
    scores = texts @ clip.images([reference.picture for reference in references]).T
    assert (scores.argmax(1) == np.arange(len(references))).mean() > 0.8


def test_batches_and_single_images_have_the_same_vectors(tmp_path: Path) -> None:
    pictures = [
        np.random.default_rng(seed).integers(0, 256, (48 + seed, 64, 3), np.uint8) for seed in range(3)
    ]
    for model in (Clip(write_siglip(tmp_path / "siglip")), PictureModel(write_dino(tmp_path / "dino"))):
        together = model.images(pictures)
        assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
        for index, picture in enumerate(pictures):
            assert np.allclose(model.images([picture])[0], together[index], atol=1e-5)
        assert np.abs(together[0] - together[1]).max() > 1e-3


def test_a_text_has_the_same_vector_beside_a_longer_one(tmp_path: Path) -> None:
    texts = ["a cat", "a red cat on a blue background, wood grain style"]
    for folder in (write_clip(tmp_path / "clip"), write_siglip(tmp_path / "siglip")):
        together, alone = Clip(folder).texts(texts), Clip(folder).texts(texts[:1])
        assert np.allclose(together[0], alone[0], atol=1e-5)
        assert np.abs(together[0] - together[1]).max() > 1e-3


def test_a_folder_without_a_model_and_a_model_without_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no model folder: it needs config\.json"):
        Clip(tmp_path)
    with pytest.raises(ValueError, match="dinov2, which reads no texts"):
        Clip(write_dino(tmp_path / "dino"))
    broken = write_clip(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be loaded"):
        Clip(broken)
