"""The application without HTTP: styled images and streams from its functions alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# In an interpreter of its own, since other tests have imported FastAPI into this one.
SCRIPT = """
import asyncio, io, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.application.caller import Caller
from service.application.extract_style import (
    Extraction,
    PictureSource,
    Styles,
    extraction_batcher,
)
from service.application.generate import FinishedImage, Images, PreviewImage
from service.application.generation_batcher import generation_batcher
from service.application.generation_request import GenerationRequest, StyleMix, StyleTerm
from service.application.model_names import ModelNames
from service.application.upload_limiter import UploadLimiter
from service.application.uploads import PictureReader, UploadedFile
from service.batching.model_thread import ModelThread
from service.metrics import Metrics
from service.settings import Settings
from service.stage_timer import RequestTrace
from service.storage.client import connect
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.styles.store import StyleStore
from tests.support.tiny import tiny_generator


async def main(folder):
    settings, metrics, generator = Settings(data_dir=folder), Metrics(), tiny_generator()
    server, thread, pool = EmbeddedValkey(folder), ModelThread(), ThreadPoolExecutor(2)
    await server.start()
    generation = generation_batcher(generator, thread, settings, metrics)
    extraction = extraction_batcher(generator, thread, settings, metrics, RequestTrace().clock)
    await generation.start()
    await extraction.start()
    async with connect(server.url) as redis:
        store = StyleStore(redis, extractor=Extraction(generator, extraction, pool), metrics=metrics)
        limiter = UploadLimiter(max_slots=1, metrics=metrics)
        warnings = generator.warnings_of_text
        reader = PictureReader(limiter, pool, settings)
        styles = Styles(store, generator.name, generator.fingerprint, reader, settings, warnings)
        names = ModelNames(generator.name, {})
        images = Images(
            generator, names, generation, store, reader, encoding=pool, settings=settings, metrics=metrics
        )
        await FUNCTION(styles, images, Caller(), RequestTrace())
    await generation.stop()
    await extraction.stop()
    await server.stop()
    thread.shutdown()
    pool.shutdown()


async def new_style(styles, caller, trace):
    from tests.support.uploads import picture

    source = PictureSource((UploadedFile(io.BytesIO(picture(1))),))
    style, is_new = await styles.of(caller).create(source, trace, name="blocks")
    assert is_new and style.name == "blocks"
    return StyleMix((StyleTerm(style.id),))


async def generate(styles, images, caller, trace):
    style = await new_style(styles, caller, trace)
    request = GenerationRequest(prompt="a star", styles=(None, style), seed=7)
    plain, styled = await images.generate(request, caller, trace)
    assert plain.file.startswith(b"\\x89PNG") and styled.file.startswith(b"\\x89PNG")
    assert plain.file != styled.file
    assert (styled.planned.spec.seed, styled.planned.style.alpha) == (7, images.generator.alpha)
    assert {"queue", "transformer", "encode"} <= set(trace.seconds)
    assert trace.fields["num_images"] == 2


async def stream(styles, images, caller, trace):
    style = await new_style(styles, caller, trace)
    request = GenerationRequest(prompt="a star", styles=(style,), seed=7, num_previews=2)
    streamed = await images.stream(request, caller, trace)
    updates = [update async for update in streamed.updates()]
    streamed.close()
    assert [type(update) for update in updates] == [PreviewImage, PreviewImage, FinishedImage]
    (finished,) = await images.generate(request, caller, trace)
    assert updates[-1].file == finished.file


asyncio.run(main(Path(sys.argv[1])))
assert not {"fastapi", "starlette"} & set(sys.modules), "the application imported HTTP"
"""


@pytest.mark.parametrize("function", ["generate", "stream"])
def test_a_styled_image_and_its_previews_need_no_http(tmp_path: Path, function: str) -> None:
    script = SCRIPT.replace("FUNCTION", function)
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
