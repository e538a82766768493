"""Enabled sizes: what is chosen, what is warmed before the service is ready, and what is refused after."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from service.model.checkpoints.options import choose_sizes
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.presets import RELEASED
from service.model.schedule import Size
from service.settings import Settings
from tests.support.pictures import gradient, saved
from tests.support.server import serving
from tests.support.tiny import tiny_generator, tiny_infinity

SQUARE, WIDE = Size(64, 64), Size(96, 64)
MILLION = tuple(RELEASED["infinity-2b"].config.schedules())


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ("auto", MILLION[:1]),
        ("all", MILLION),
        ("1344x768, 1024x1024,1344x768", (Size(1344, 768), Size(1024, 1024))),
    ],
)
def test_of_many_sizes_the_first_is_enabled_unless_others_are_named(
    asked: str, sizes: tuple[Size, ...]
) -> None:
    assert choose_sizes(MILLION, asked, model="infinity-2b") == sizes


def test_of_few_sizes_all_are_enabled() -> None:
    assert choose_sizes([SQUARE, WIDE], "auto", model="tiny") == (SQUARE, WIDE)


@pytest.mark.parametrize(("asked", "named"), [("512x512,1024x1024", "512x512"), (" ,", "no size")])
def test_a_size_that_is_not_the_models_is_refused_with_those_that_are(asked: str, named: str) -> None:
    with pytest.raises(ValueError, match=rf"ATELIER_SIZES names {named}; .* infinity-2b: 1024x1024, "):
        choose_sizes(MILLION, asked, model="infinity-2b")


def test_every_enabled_size_is_drawn_before_the_service_is_ready_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service")
    generator = Generator(tiny_infinity(), [WIDE])
    with (
        serving(Settings(data_dir=tmp_path, size_policy="native"), generator) as running,
        running.client() as client,
    ):
        running.wait_until_settled()
        (warmed,) = [record.getMessage() for record in caplog.records if "warmed_up" in record.getMessage()]
        assert "'96x64'" in warmed
        assert "seconds=" in warmed
        (model,) = client.get("/v1/models").json()["data"]
        assert (model["sizes"], model["default_size"]) == (["96x64"], "96x64")
        assert model["native_sizes"] == ["64x64", "96x64"]
        assert model["precision"] == "fp32"
        refused = client.post("/v1/images/generations", json={"prompt": "a star", "size": "64x64"})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "unsupported_size"
        assert refused.json()["error"]["message"] == (
            "64x64 is not enabled on this service; it draws 96x64 (auto is 96x64). "
            "ATELIER_SIZES enables more."
        )
        drawn = client.post("/v1/images/generations", json={"prompt": "a star"})
        assert drawn.json()["size"] == "96x64"


@pytest.mark.slow
def test_a_style_is_the_same_style_whatever_sizes_are_enabled(tmp_path: Path) -> None:
    codes = []
    for name, generator in (("all", tiny_generator()), ("wide", Generator(tiny_infinity(), [WIDE]))):
        with serving(Settings(data_dir=tmp_path / name), generator) as running, running.client() as client:
            running.wait_until_settled()
            files = {"image": saved(gradient(), "PNG")}
            style = client.post("/v1/styles", files=files).json()
            codes.append(style["code"])
            answer = client.post(
                "/v1/images/generations",
                json={"prompt": "a star", "seed": 1, "style": style["id"], "size": "96x64"},
            )
            codes.append(json.dumps(answer.json()["data"]))
    assert codes[:2] == codes[2:]


def test_warm_up_tells_each_size_and_its_seconds() -> None:
    seen: list[tuple[Size, float]] = []
    generator = tiny_generator()
    generator.warm_up(lambda size, seconds: seen.append((size, seconds)))
    assert [size for size, _ in seen] == [SQUARE, WIDE]
    assert all(seconds > 0 for _, seconds in seen)


def test_words_and_styles_are_read_at_the_style_size_whatever_is_enabled() -> None:
    both, wide = tiny_generator(), Generator(tiny_infinity(), [WIDE])
    assert both.style_size == wide.style_size == SQUARE
    assert both.tokens_of_text("neon", 1) == wide.tokens_of_text("neon", 1)
    # Enabling is the service's word to its clients: who holds the Generator may draw any native size.
    assert wide.generate([ImageSpec("a star", 1, SQUARE)])[0].image.shape == (64, 64, 3)
