"""`python -m service.evaluation.train_clip`: from sprites to the tiny CLIP that ships, for nano's world.

A CLIP by `transformers`' own configuration and files, so that it is loaded as any other is. It is trained on
renders and their captions, and never on anything that a model under judgement has drawn. As for the judge,
half of the renders are degraded as generated pictures are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from service.evaluation.paper.clip import Clip
from service.evaluation.train_judge import degraded, training_parser
from service.model.nano.words import write_vocabulary
from service.training.captions import caption, full_caption
from service.training.corpus import make_renders
from service.training.muon import muon_and_adam
from service.training.sheets import as_images
from service.training.trainer import Run, Session, fastest

WEIGHTS = Path(__file__).parent / "weights" / "clip"
_SEED, _HELD_OUT_SEED = 9128, 9129
_BATCH = 160
_MAX_TOKENS = 24
_MEAN = _STD = [0.5, 0.5, 0.5]
_PAD, _END = 0, 1  # of nano's vocabulary


def main() -> None:
    chosen = training_parser(__doc__, run="runs/clip", out=WEIGHTS, minutes=15).parse_args()
    chosen.run.mkdir(parents=True, exist_ok=True)
    session = Session(folder=chosen.run, compute=fastest(chosen.device))
    train_clip(session, chosen.sprites, chosen.out, chosen.minutes, chosen.num_images)
    share = right_of_64(chosen.run, chosen.sprites, chosen.out)
    print(f"the right one of 64 held-out renders for a full caption: {100 * share:.1f} %")


def train_clip(session: Session, sprites: Path, out: Path, minutes: float, num_images: int) -> None:
    """Train, or resume; writes the averaged weights to `out` in fp16, with tokenizer and image processor."""
    renders, scenes = make_renders(session.folder, sprites, _SEED, num_images, held_out=None)
    compute = session.compute
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = write_processors(out)
    torch.manual_seed(_SEED)
    clip: Any = CLIPModel(config_of(len(tokenizer)))
    clip.to(compute.device)
    optimisers = muon_and_adam(
        clip,
        lambda name, weight: weight.dim() == 2 and "embedding" not in name,
        muon_rate=0.02,
        momentum=0.95,
        adam_rate=2e-3,
        weight_decay=1e-2,
        precision=compute.precision,
    )
    run = Run("clip", session, clip, optimisers, minutes=minutes, flat_share=0.4, decay=0.99)
    while not run.is_done:
        rng = np.random.default_rng([_SEED, run.step])
        chosen = np.sort(rng.choice(len(renders), min(_BATCH, len(renders)), replace=False))
        images = degraded(as_images(renders[chosen]), rng).to(compute.device)
        captions = _read(tokenizer, [caption(scenes[index], rng) for index in chosen])
        with compute.autocast():
            loss, hits = contrastive(clip, images, captions.to(compute.device), same(captions))
        run.descend(loss, {"loss": loss.item(), "hits": hits})
    run.load_average()
    clip.half().save_pretrained(out)


def right_of_64(folder: Path, sprites: Path, weights: Path, num_images: int = 64 * 16) -> float:
    """Of full captions of held-out renders, the share whose own render is the nearest of 64."""
    renders, scenes = make_renders(folder / "held_out", sprites, _HELD_OUT_SEED, num_images, held_out=None)
    clip = Clip(weights)
    images, texts = clip.images(list(renders)), clip.texts([full_caption(scene) for scene in scenes])
    hits = 0
    for start in range(0, num_images, 64):
        part = slice(start, start + 64)
        nearest = (texts[part] @ images[part].T).argmax(1)
        hits += int((nearest == np.arange(len(nearest))).sum())
    return hits / num_images


def contrastive(clip: CLIPModel, images: Tensor, ids: Tensor, alike: Tensor) -> tuple[Tensor, float]:
    """CLIP's symmetric loss, equal captions counting as right answers, and the share of images read right."""
    found = clip(input_ids=ids, attention_mask=(ids != _PAD).long(), pixel_values=images)
    logits = found.logits_per_image.float()
    targets = (alike / alike.sum(1, keepdim=True)).to(logits.device)
    loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    right = alike.to(logits.device)[torch.arange(len(ids)), logits.argmax(1)]
    return loss, float(right.float().mean())


def same(ids: Tensor) -> Tensor:
    """[captions, captions]: 1 where two have the same words."""
    return (ids[:, None] == ids[None]).all(-1).float()


def _read(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> Tensor:
    found: Tensor = tokenizer(
        captions, padding="max_length", truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
    )["input_ids"]
    return found


def write_processors(folder: Path) -> PreTrainedTokenizerFast:
    """The files with which `transformers` reads texts and pictures for this CLIP."""
    write_vocabulary(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token="<pad>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
    )
    tokenizer.model_max_length = _MAX_TOKENS
    tokenizer.save_pretrained(folder)
    write_vocabulary(folder)  # again: the library keeps only one spelling an ID when it saves
    CLIPImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_mean=_MEAN,
        image_std=_STD,
    ).save_pretrained(folder)
    return tokenizer


def config_of(num_words: int) -> CLIPConfig:
    return CLIPConfig(
        text_config={
            "vocab_size": num_words,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": _MAX_TOKENS,
            "pad_token_id": _PAD,
            "eos_token_id": _END,
            "bos_token_id": _END,
        },
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
        },
        projection_dim=64,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
