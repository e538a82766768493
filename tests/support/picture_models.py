"""A tiny CLIP, SigLIP and DINO with random weights, in folders laid out like those of the hub."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from service.evaluation.train_clip import config_of, write_processors

_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def write_clip(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    folder.mkdir()
    CLIPModel(config_of(len(write_processors(folder)))).save_pretrained(folder)
    return folder


def write_siglip(folder: Path) -> Path:
    torch.manual_seed(0)
    folder.mkdir()
    text = {**_TOWER, "vocab_size": len(write_processors(folder)), "max_position_embeddings": 12}
    vision = {**_TOWER, "image_size": 32, "patch_size": 8}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_dino(folder: Path) -> Path:
    torch.manual_seed(0)
    folder.mkdir()
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    Dinov2Model(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder
