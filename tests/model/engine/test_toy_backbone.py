"""A backbone that shares no code with Infinity, through the real Generator, the batcher and HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Preview, PreviewRequest, Styling, WeightedStyle
from tests.support.generations import COMPLETED, PARTIAL, draw, error_of, events_of, file_of, images_of
from tests.support.server import ready_server
from tests.support.specs import picture
from tests.support.toy_backbone import ToyBackbone
from tests.support.uploads import picture as file_of_picture
from tests.support.uploads import upload

GENERATOR = Generator(ToyBackbone())
SMALL, LARGE = GENERATOR.sizes


def toy_specs() -> list[ImageSpec]:
    styles = [WeightedStyle(GENERATOR.extract_style(picture(seed), SMALL)) for seed in range(2)]
    plain = ImageSpec("a red star", 1, SMALL)
    return [
        plain,
        replace(plain, styling=Styling((styles[0],))),
        replace(plain, styling=Styling(tuple(styles), strength=0.5)),
        ImageSpec(
            "a blue cat", 2, SMALL, negative_prompt="dull", guidance=3.0, styling=Styling((styles[1],))
        ),
        ImageSpec("a tree, and far more words than the model reads", 3, SMALL),
    ]


def test_an_image_is_the_same_alone_and_in_a_mixed_batch() -> None:
    specs = toy_specs()
    batch = GENERATOR.generate(specs)
    assert len({drawing.image.tobytes() for drawing in batch}) == len(specs)
    for spec, drawing in zip(specs, batch, strict=True):
        assert np.array_equal(drawing.image, GENERATOR.generate([spec])[0].image)
    assert batch[0].timings.num_content_paths_shared == 2
    assert batch[-1].warnings == ("the prompt was cut: toy reads 40 tokens",)


def test_a_style_of_two_pictures_does_not_depend_on_their_order() -> None:
    first, second = (GENERATOR.read_tokens(picture(seed), SMALL) for seed in range(2))
    both = GENERATOR.combine_tokens([first, second], SMALL)
    assert both == GENERATOR.combine_tokens([second, first], SMALL)
    mean = GENERATOR.backbone.style_feature(GENERATOR.decompose(both, SMALL))
    parts = [GENERATOR.backbone.style_feature(GENERATOR.decompose(part, SMALL)) for part in (first, second)]
    assert np.allclose(mean, (parts[0] + parts[1]) / 2, atol=1e-6)


def test_a_style_is_used_at_another_size_and_previews_grow() -> None:
    style = GENERATOR.restore_style(GENERATOR.read_tokens(picture(0), SMALL), LARGE)
    shown: list[Preview] = []
    previews = PreviewRequest(GENERATOR.preview_steps(LARGE, 2), shown.append)
    spec = ImageSpec("a red star", 1, LARGE, styling=Styling((WeightedStyle(style),)), previews=previews)
    (drawing,) = GENERATOR.generate([spec])
    assert drawing.image.shape == (32, 32, 3)
    assert [preview.image.shape[0] for preview in shown] == [8, 16]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("toy")
    with ready_server(folder, Generator(ToyBackbone()), metadata="none") as (_, client):
        yield client


def test_over_http_an_image_is_the_same_alone_and_beside_others(client: httpx.Client) -> None:
    style = upload(client, file_of_picture(1)).json()["id"]
    bodies = [
        {},
        {"style": style},
        {"style": {"id": style, "strength": 0.5}},
        {"seed": 2},
        {"quality": "low"},
    ]
    alone = [images_of(draw(client, **body)) for body in bodies]
    assert len({image for images in alone for image in images}) == len(bodies)
    with ThreadPoolExecutor(len(bodies)) as threads:
        together = list(threads.map(lambda body: images_of(draw(client, **body)), bodies))
    assert together == alone


def test_over_http_previews_come_before_the_image(client: httpx.Client) -> None:
    partial, completed = events_of(client, seed=1, partial_images=1)
    assert [partial["type"], completed["type"]] == [PARTIAL, COMPLETED]
    assert [file_of(completed)] == images_of(draw(client, seed=1))


def test_a_style_from_text_and_its_code_give_the_same_images(client: httpx.Client) -> None:
    style = client.post("/v1/styles", json={"text": "neon"}).json()
    assert style["source"] == "text"
    styled = images_of(draw(client, style=style["id"]))
    assert styled == images_of(draw(client, style=style["code"]))
    assert styled != images_of(draw(client))


def test_a_code_of_another_backbone_is_refused(client: httpx.Client, tmp_path: Path) -> None:
    code = upload(client, file_of_picture(1)).json()["code"]
    with ready_server(tmp_path, Generator(ToyBackbone("other", seed=1))) as (_, other):
        assert error_of(draw(other, style=code), 400)["code"] == "foreign_style_code"
