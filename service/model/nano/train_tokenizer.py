"""Training nano's image tokenizer: reconstruction through multi-scale bits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from service.model.infinity.tokenizer import Tokenizer, accumulated, quantise
from service.model.nano.muon import muon_and_adam
from service.model.nano.recipe import CONFIG, GRIDS, Recipe
from service.model.nano.trainer import Run

_TOKENIZER, _DECODER = 1, 2  # stages, each with a random stream of its own


def train_tokenizer(folder: Path, pictures: NDArray[np.uint8], recipe: Recipe) -> Tokenizer:
    """Train to the recipe's number of steps; returns the averaged weights."""
    torch.manual_seed(recipe.seed)
    tokenizer = Tokenizer(CONFIG.tokenizer).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in tokenizer.modules():  # residual branches start silent
        if hasattr(module, "conv2"):
            torch.nn.init.zeros_(module.conv2.weight)
    optimisers = _optimisers(tokenizer, recipe)
    run = Run("tokenizer", folder, tokenizer, optimisers, recipe.average, recipe.checkpoint_every)
    while run.step < recipe.tokenizer_steps:
        images = _images(pictures, recipe, _TOKENIZER, run.step)
        h = tokenizer.encode(images)
        bits = quantise(h.detach(), GRIDS)
        feature = accumulated(bits, GRIDS[-1])[-1]
        decoded = tokenizer.decoder(h + (feature - h).detach())  # straight through
        seen, commitment = picture_loss(decoded, images), F.mse_loss(h, feature)
        loss = seen + commitment + 0.02 * unused_bits(h)
        losses = {"loss": seen.item(), "commitment": commitment.item(), "psnr": psnr_of(decoded, images)}
        run.descend(loss, recipe.tokenizer_steps, recipe.flat_share, losses)
    run.load_average()
    return tokenizer


def fine_tune_decoder(
    folder: Path, tokenizer: Tokenizer, pictures: NDArray[np.uint8], recipe: Recipe
) -> None:
    """More decoder steps on quantised features: the bits, and so the transformer, stay as they are."""
    decoder = tokenizer.decoder
    optimisers = _optimisers(decoder, recipe, share=0.3)
    run = Run("decoder", folder, decoder, optimisers, recipe.average, recipe.checkpoint_every)
    while run.step < recipe.decoder_steps:
        images = _images(pictures, recipe, _DECODER, run.step)
        with torch.no_grad():
            feature = accumulated(quantise(tokenizer.encode(images), GRIDS), GRIDS[-1])[-1]
        decoded = decoder(feature)
        loss = picture_loss(decoded, images)
        losses = {"loss": loss.item(), "psnr": psnr_of(decoded, images)}
        run.descend(loss, recipe.decoder_steps, 0.3, losses)
    run.load_average()


def _optimisers(module: nn.Module, recipe: Recipe, share: float = 1.0) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions, which learn several times faster by it, AdamW for the rest."""
    return muon_and_adam(
        module,
        lambda _, kernel: kernel.dim() == 4 and min(kernel.shape[:2]) >= 8,
        muon_rate=recipe.convolution_rate * share,
        momentum=0.9,
        adam_rate=recipe.adam_rate * share,
        weight_decay=1e-3,
    )


def _images(pictures: NDArray[np.uint8], recipe: Recipe, stage: int, step: int) -> Tensor:
    """The batch of a step, decided by the recipe's seed: a resumed run sees what it would have seen."""
    rng = np.random.default_rng([recipe.seed, stage, step])
    return as_images(pictures[np.sort(rng.choice(len(pictures), recipe.tokenizer_batch, replace=False))])


def as_images(pictures: NDArray[np.uint8]) -> Tensor:
    """[images, 64, 64, 3] uint8 -> [images, 3, 64, 64] in [-1, 1], channels last."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def picture_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """L1 + MSE + half the L1 of the gradients, which keeps edges."""
    edges = sum(F.l1_loss(decoded.diff(dim=axis), images.diff(dim=axis)) for axis in (-1, -2))
    return F.l1_loss(decoded, images) + F.mse_loss(decoded, images) + 0.5 * edges


def unused_bits(h: Tensor) -> Tensor:
    """How unevenly each channel's bits are used over the batch: 0 when each is 1 half the time."""
    share = torch.sigmoid(8 * h).mean((0, 2, 3)).clamp(1e-4, 1 - 1e-4)  # [bits]
    entropy = -(share * share.log() + (1 - share) * (1 - share).log())
    return (math.log(2) - entropy).mean()


def psnr_of(decoded: Tensor, images: Tensor) -> float:
    """In dB over the batch; images span 2."""
    return -10 * math.log10(F.mse_loss(decoded.detach().clamp(-1, 1), images).item() / 4)
