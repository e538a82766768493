"""The sample pictures are drawn by a real service."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from service.evaluation.samples import PROMPTS, make_samples, style_images
from tests.support.server import Running

pytestmark = pytest.mark.slow


def test_every_prompt_is_drawn_in_every_style(server: Running, tmp_path: Path) -> None:
    with server.client() as client:
        make_samples(client, tmp_path)
        names = {style["name"] for style in client.get("/v1/styles").json()["data"]}
    assert names == set(style_images())
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size == (64, 64)
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert sheet.width > 96 * (1 + len(PROMPTS))
        assert sheet.height > 96 * (1 + len(names))
