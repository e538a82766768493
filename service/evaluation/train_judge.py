"""`python -m service.evaluation.train_judge`: from sprites to the judge that ships, with its references.

The sprites are those of a training of nano, whose folder `--sprites` names. Half of the renders are degraded
as generated pictures are (soft, noisy, a little off in colour), so that the judge reads what is drawn and not
how sharply. It resumes where it stopped, and ends with the accuracies on renders that it was not trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from service.evaluation.judge import ATTRIBUTES, WEIGHTS, Judge, is_coloured, load_judge
from service.evaluation.references import FILE, NAMED, Reference, write_references
from service.training.corpus import make_renders
from service.training.muon import muon_and_adam
from service.training.renderer import Renderer
from service.training.scene import MEDIA, Scene
from service.training.sheets import as_images
from service.training.sprites import Sprites
from service.training.trainer import Run, Session, fastest

_SEED, _HELD_OUT_SEED, _REFERENCE_SEED = 8128, 8129, 8130
_BATCH = 64
_NOT_NAMED = -1  # in place of a colour's label


def main() -> None:
    parser = training_parser(__doc__, run="runs/judge", out=WEIGHTS, minutes=20)
    parser.add_argument("--num-references", type=int, default=384, help="beside the named ones")
    chosen = parser.parse_args()
    chosen.run.mkdir(parents=True, exist_ok=True)
    make_references(chosen.run, chosen.sprites, FILE, chosen.num_references)
    session = Session(folder=chosen.run, compute=fastest(chosen.device))
    train_judge(session, chosen.sprites, chosen.out, chosen.minutes, chosen.num_images)
    for name, share in accuracies(chosen.run, chosen.sprites, chosen.out, 4_000).items():
        print(f"{name}: {100 * share:.2f} % of held-out renders")


def training_parser(
    description: str | None, *, run: str, out: Path, minutes: float
) -> argparse.ArgumentParser:
    """The options of a training on renders, with these defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path(run), help="folder of renders, checkpoint, log")
    parser.add_argument("--out", type=Path, default=out, help="what to write")
    parser.add_argument(
        "--sprites",
        type=Path,
        default=Path("runs/nano"),
        help="folder of a training of nano, for its sprites",
    )
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--num-images", type=int, default=30_000)
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    return parser


def train_judge(session: Session, sprites: Path, out: Path, minutes: float, num_images: int) -> None:
    """Train, or resume; writes the averaged weights to `out` in fp16."""
    renders, scenes = make_renders(session.folder, sprites, _SEED, num_images, held_out=None)
    compute = session.compute
    torch.manual_seed(_SEED)
    judge = Judge().to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimisers = muon_and_adam(
        judge,
        lambda _, kernel: kernel.dim() == 4 and min(kernel.shape[:2]) >= 8,
        muon_rate=0.02,
        momentum=0.9,
        adam_rate=2e-3,
        weight_decay=1e-2,
        precision=compute.precision,
    )
    run = Run("judge", session, judge, optimisers, minutes=minutes, flat_share=0.4, decay=0.99)
    targets = {name: labels_of(scenes, name) for name in ATTRIBUTES}
    while not run.is_done:
        rng = np.random.default_rng([_SEED, run.step])
        chosen = np.sort(rng.choice(len(renders), min(_BATCH, len(renders)), replace=False))
        images = degraded(as_images(renders[chosen]), rng).to(compute.device)
        with compute.autocast():
            logits = judge(images)
        losses = {
            name: _cross_entropy(logits[name].float(), labels[chosen].to(compute.device))
            for name, labels in targets.items()
        }
        seen = {name: loss.item() for name, loss in losses.items()}
        run.descend(torch.stack(list(losses.values())).sum(), seen)
    run.load_average()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous().cpu() for name, tensor in judge.state_dict().items()}, out)


def accuracies(folder: Path, sprites: Path, weights: Path, num_images: int) -> dict[str, float]:
    """Shares of held-out renders that the judge reads right: each attribute, and the object by medium."""
    renders, scenes = make_renders(folder / "held_out", sprites, _HELD_OUT_SEED, num_images, held_out=None)
    verdict = load_judge(weights).judge(renders)
    agreement = {name: verdict.agrees(name, scenes) for name in ATTRIBUTES}
    agreement["colour"] = agreement["colour"][is_coloured(scenes)]
    objects, media = agreement["object"], np.array([scene.medium for scene in scenes])
    by_medium = {f"object, {name}": objects[media == name] for name in MEDIA}
    return {name: float(right.mean()) for name, right in (agreement | by_medium).items() if len(right)}


def make_references(folder: Path, sprites: Path, file: Path, num: int) -> None:
    """Write the named references and `num` more, of all pairs of thing and medium alike."""
    renders, scenes = make_renders(folder / "references", sprites, _REFERENCE_SEED, num, held_out=None)
    rng, renderer = np.random.default_rng(_REFERENCE_SEED), Renderer(Sprites.load(sprites))
    named = [Reference(scene, renderer.render(scene, rng)) for scene in NAMED.values()]
    unnamed = [Reference(scene, np.array(picture)) for scene, picture in zip(scenes, renders, strict=True)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_references(file, [*named, *unnamed])


def labels_of(scenes: Sequence[Scene], attribute: str) -> Tensor:
    """The index of each scene's word; _NOT_NAMED for a thing in its own colours."""
    words = ATTRIBUTES[attribute]
    named = [getattr(scene, attribute) for scene in scenes]
    return torch.tensor([words.index(word) if word else _NOT_NAMED for word in named])


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over those that are named; 0 if none is."""
    total = F.cross_entropy(logits, labels, ignore_index=_NOT_NAMED, reduction="sum")
    return total / (labels != _NOT_NAMED).sum().clamp(min=1)


def degraded(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the images [images, 3, h, w], made softer, noisier and a little off in colour."""
    soft = [_softened(image[None], rng) if rng.random() < 0.5 else image[None] for image in images]
    return torch.cat(soft).clamp(-1, 1)


def _softened(image: Tensor, rng: np.random.Generator) -> Tensor:
    sigma = rng.uniform(0.3, 1.1)
    kernel = torch.exp(-torch.arange(-2.0, 3.0).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(image, (2, 2, 2, 2), mode="replicate")
    planes = torch.outer(kernel, kernel)[None, None].expand(3, 1, 5, 5)
    blurred = F.conv2d(padded, planes, groups=3)
    tint = torch.from_numpy(rng.normal(0, 0.02, (1, 3, 1, 1))).float()
    noise = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.06), image.shape)).float()
    return blurred + tint + noise


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
