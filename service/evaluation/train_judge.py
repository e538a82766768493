"""`python -m service.evaluation.train_judge`: from nothing to the judge that ships.

Half of the renders are degraded as generated pictures are (soft, noisy, a little off in colour), so that the
judge reads what is drawn and not how sharply. Ends with the accuracies on renders that it was not trained on.
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

from service.evaluation.judge import ATTRIBUTES, WEIGHTS, Judge
from service.training.corpus import make_renders
from service.training.muon import muon_and_adam
from service.training.scene import Scene
from service.training.sheets import as_images
from service.training.trainer import Compute, Run, fastest

_SEED, _HELD_OUT_SEED = 8128, 8129
_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/judge"), help="folder of renders, checkpoint, log"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file to write")
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--num-images", type=int, default=30_000)
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    chosen = parser.parse_args()
    train_judge(chosen.run, chosen.out, chosen.steps, chosen.num_images, fastest(chosen.device))
    for name, share in accuracies(chosen.run, chosen.out, 4_000).items():
        print(f"{name}: {100 * share:.2f} % of held-out renders")


def train_judge(folder: Path, out: Path, num_steps: int, num_images: int, compute: Compute) -> None:
    """Train, or resume; writes the averaged weights to `out` in fp16."""
    renders, scenes = make_renders(folder, _SEED, num_images)
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
    run = Run("judge", folder, judge, optimisers, decay=0.99, checkpoint_every=100)
    targets = {name: labels_of(scenes, name) for name in ATTRIBUTES}
    while run.step < num_steps:
        rng = np.random.default_rng([_SEED, run.step])
        chosen = np.sort(rng.choice(len(renders), _BATCH, replace=False))
        images = degraded(as_images(renders[chosen]), rng).to(compute.device)
        with compute.autocast():
            logits = judge(images)
        losses = {
            name: F.cross_entropy(logits[name].float(), labels[chosen].to(compute.device))
            for name, labels in targets.items()
        }
        seen = {name: loss.item() for name, loss in losses.items()}
        run.descend(torch.stack(list(losses.values())).sum(), num_steps, 0.4, seen)
    run.load_average()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous().cpu() for name, tensor in judge.state_dict().items()}, out)


def accuracies(folder: Path, weights: Path, num_images: int) -> dict[str, float]:
    """Each attribute's share of held-out renders that the judge of `weights` reads right."""
    from service.evaluation.judge import load_judge

    renders, scenes = make_renders(folder / "held_out", _HELD_OUT_SEED, num_images)
    verdict = load_judge(weights).judge(renders)
    return {name: float(verdict.agrees(name, scenes).mean()) for name in ATTRIBUTES}


def labels_of(scenes: Sequence[Scene], attribute: str) -> Tensor:
    words = ATTRIBUTES[attribute]
    return torch.tensor([words.index(getattr(scene, attribute)) for scene in scenes])


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
    torch.set_num_threads(2)
    main()
