"""CLIP, SigLIP or DINO from a folder, as measures: unit vectors of pictures and of texts.

Any folder that `transformers` loads and that has safetensors. Nothing is downloaded, and no code of a folder
is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

Vectors = NDArray[np.float32]  # [things, channels], of length 1
_BATCH = 64


class PictureModel:
    """A vision model: pictures as unit vectors. Of DINO and its like, the class token of the last layer."""

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        """ValueError, a sentence, when the folder holds no such model."""
        self.folder, self.device = folder, device or torch.device("cpu")
        self.fingerprint = fingerprint_of(folder)
        self.model: Any = (
            _loaded("AutoModel", folder, use_safetensors=True, dtype=torch.float32).eval().to(self.device)
        )
        self._prepare: Any = _loaded("AutoImageProcessor", folder, backend="pil")
        self.name = folder.resolve().name

    @torch.inference_mode()
    def images(self, pictures: Sequence[NDArray[np.uint8]]) -> Vectors:
        """[pictures, channels], of pictures [h, w, 3] RGB."""
        parts = []
        for start in range(0, len(pictures), _BATCH):
            batch = [np.ascontiguousarray(picture) for picture in pictures[start : start + _BATCH]]
            pixels = self._prepare(images=batch, return_tensors="pt")["pixel_values"]
            parts.append(_unit(self._image_features(pixels.to(self.device))))
        return np.concatenate(parts)

    def _image_features(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.model(pixel_values=pixels).last_hidden_state[:, 0]
        return found


class Clip(PictureModel):
    """CLIP or SigLIP: pictures and texts as unit vectors of one space."""

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        super().__init__(folder, device)
        if not (hasattr(self.model, "get_image_features") and hasattr(self.model, "get_text_features")):
            raise ValueError(
                f"{folder} holds a {self.model.config.model_type}, which reads no texts: --clip takes a CLIP "
                "or a SigLIP."
            )
        self._tokenizer: Any = _loaded("AutoTokenizer", folder)
        self._max_tokens = int(self.model.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts of one length, padding included.
        self._padding = "max_length" if self.model.config.model_type.startswith("siglip") else "longest"
        self._known: dict[str, Vectors] = {}

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Vectors:
        """[texts, channels]; each text is read once, longer ones are cut."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            read = self._tokenizer(
                batch,
                padding=self._padding,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            ).to(self.device)
            read.pop("token_type_ids", None)
            found = _unit(_pooled(self.model.get_text_features(**read)))
            self._known.update(zip(batch, found, strict=True))
        return np.stack([self._known[text] for text in texts])

    def _image_features(self, pixels: Tensor) -> Tensor:
        return _pooled(self.model.get_image_features(pixel_values=pixels))


def _pooled(found: Any) -> Tensor:
    """The projected feature: `transformers` returns it in an output since version 5, and bare before."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _unit(features: Tensor) -> Vectors:
    vectors: Vectors = F.normalize(features.float(), dim=-1).cpu().numpy()
    return vectors


def fingerprint_of(folder: Path) -> str:
    """16 hex characters over the folder's configuration and weights. ValueError when it has none."""
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise ValueError(
            f"{folder} is no model folder: it needs config.json, *.safetensors, preprocessor_config.json "
            "and, for CLIP, a tokenizer, as the Hugging Face hub has them."
        )
    digest = hashlib.sha256(json.dumps(json.loads((folder / "config.json").read_text())).encode())
    for file in weights:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def _loaded(loader: str, folder: Path, **options: object) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        return getattr(transformers, loader).from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{folder} cannot be loaded by transformers' {loader}: {reason}") from error
