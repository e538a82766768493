"""Training nano's image tokenizer: reconstruction through multi-scale bits."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.model.infinity.tokenizer import Tokenizer, accumulated, quantise
from service.training.corpus import Corpus
from service.training.muon import muon_and_adam
from service.training.recipe import CONFIG, GRIDS, Recipe
from service.training.sheets import as_images, save_reconstructions
from service.training.trainer import Compute, Run, Session, load_average

_TOKENIZER, _DECODER = 1, 2  # stages, each with a random stream of its own


def train_tokenizer(session: Session, corpus: Corpus, recipe: Recipe) -> Tokenizer:
    """Train for the recipe's minutes; returns the averaged weights."""
    compute = session.compute
    torch.manual_seed(recipe.seed)
    tokenizer = new_tokenizer(compute)
    run = Run(
        "tokenizer",
        session,
        tokenizer,
        _optimisers(tokenizer, recipe, compute),
        minutes=recipe.tokenizer_minutes,
        flat_share=recipe.tokenizer_flat_share,
        decay=recipe.tokenizer_average,
    )
    while not run.is_done:
        images = _images(corpus, recipe, _TOKENIZER, run.step).to(compute.device)
        with compute.autocast():
            h = tokenizer.encode(images).float()
        bits = quantise(h.detach(), GRIDS)
        feature = accumulated(bits, GRIDS[-1])[-1]
        with compute.autocast():
            decoded = tokenizer.decoder(h + (feature - h).detach()).float()  # straight through
        seen, commitment = picture_loss(decoded, images), F.mse_loss(h, feature)
        loss = seen + commitment + 0.02 * unused_bits(h)
        losses = {"loss": loss.item(), "commitment": commitment.item(), "psnr": psnr_of(decoded, images)}
        run.descend(loss, losses)
        _look(run, tokenizer, corpus, recipe)
    run.load_average()
    return tokenizer


def load_tokenizer(session: Session) -> Tokenizer:
    """The averages of a training that has begun, with the decoder as fine-tuned if it has been."""
    tokenizer = new_tokenizer(session.compute)
    load_average(session.folder / "tokenizer.pt", tokenizer)
    if (session.folder / "decoder.pt").exists():
        load_average(session.folder / "decoder.pt", tokenizer.decoder)
    return tokenizer


def new_tokenizer(compute: Compute) -> Tokenizer:
    """Untrained, with residual branches that start silent."""
    tokenizer = Tokenizer(CONFIG.tokenizer).to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in tokenizer.modules():
        if hasattr(module, "conv2"):
            torch.nn.init.zeros_(module.conv2.weight)
    return tokenizer


def fine_tune_decoder(session: Session, tokenizer: Tokenizer, corpus: Corpus, recipe: Recipe) -> None:
    """More decoder steps on quantised features: the bits, and so the transformer, stay as they are."""
    compute, decoder = session.compute, tokenizer.decoder
    run = Run(
        "decoder",
        session,
        decoder,
        _optimisers(decoder, recipe, compute, recipe.decoder_rates),
        minutes=recipe.decoder_minutes,
        flat_share=0.0,
        decay=recipe.tokenizer_average,
    )
    while not run.is_done:
        images = _images(corpus, recipe, _DECODER, run.step).to(compute.device)
        with torch.no_grad(), compute.autocast():
            h = tokenizer.encode(images).float()
        feature = accumulated(quantise(h, GRIDS), GRIDS[-1])[-1]
        with compute.autocast():
            decoded = decoder(feature).float()
        loss = picture_loss(decoded, images)
        run.descend(loss, {"loss": loss.item(), "psnr": psnr_of(decoded, images)})
        _look(run, tokenizer, corpus, recipe)
    run.load_average()


def _look(run: Run, tokenizer: Tokenizer, corpus: Corpus, recipe: Recipe) -> None:
    if run.is_sheet_due(recipe.sheet_minutes):
        with run.averaged():
            file = run.file.parent / "sheets" / f"{run.name}_{run.step:05d}.png"
            save_reconstructions(file, tokenizer, corpus)


def _optimisers(
    module: nn.Module, recipe: Recipe, compute: Compute, share: float = 1.0
) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions, which learn several times faster by it, AdamW for the rest."""
    return muon_and_adam(
        module,
        lambda _, kernel: kernel.dim() == 4 and min(kernel.shape[:2]) >= 8,
        muon_rate=recipe.convolution_rate * share,
        momentum=0.9,
        adam_rate=recipe.adam_rate * share,
        weight_decay=1e-3,
        precision=compute.precision,
    )


def _images(corpus: Corpus, recipe: Recipe, stage: int, step: int) -> Tensor:
    """The batch of a step, decided by the recipe's seed: a resumed run sees what it would have seen."""
    rng = np.random.default_rng([recipe.seed, stage, step])
    num_outside = round(recipe.tokenizer_batch * recipe.outside_share)
    renders = rng.choice(len(corpus.renders), recipe.tokenizer_batch - num_outside, replace=False)
    outside = rng.choice(len(corpus.outside), num_outside, replace=False)
    return as_images(np.concatenate([corpus.renders[np.sort(renders)], corpus.outside[np.sort(outside)]]))


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
