"""The functions of the service that one styled request crosses: `python -m tests.support.call_path [--list]`.

Serves nano in this process, stores a style, draws in it twice, and counts, over all threads, the distinct
functions and files under service/ that a third request enters.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

import httpx
import numpy as np
from PIL import Image

import service
from service.app import create_app
from service.settings import Settings

ROOT = str(Path(service.__file__).parent)
# Scopes of the compiler's own, which nobody reads as functions.
ANONYMOUS = ("<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>", "<module>")


class Recorder:
    """The code of every function that this thread, and those it starts from now on, enter."""

    def __init__(self) -> None:
        self.entered: set[CodeType] = set()
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)

    def stop(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            self.entered.add(frame.f_code)


async def functions_crossed() -> set[tuple[str, str]]:
    """File, relative to service/, and qualified name of each function that one styled request enters."""
    picture = io.BytesIO()
    blocks = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((96, 64)).save(picture, "PNG")
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder)))
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            await app.state.service.settled.wait()
            style = await client.post("/v1/styles", files={"image": ("style.png", picture.getvalue())})
            body = {"prompt": "a star", "style": style.json()["id"], "seed": 1}
            for _ in range(2):
                await client.post("/v1/images/generations", json=body)
            recorder.entered.clear()
            drawn = await client.post("/v1/images/generations", json=body)
            recorder.stop()
            assert drawn.status_code == 200, drawn.text
    return {
        (code.co_filename.removeprefix(f"{ROOT}/"), code.co_qualname)
        for code in recorder.entered
        if code.co_filename.startswith(ROOT) and code.co_name not in ANONYMOUS
    }


def main() -> None:
    crossed = asyncio.run(functions_crossed())
    if "--list" in sys.argv:
        for file, name in sorted(crossed):
            print(f"{file}  {name}")
    files = Counter(file for file, _ in crossed)
    for folder, number in sorted(Counter(file.rpartition("/")[0] for file, _ in crossed).items()):
        print(f"{number:4} functions  service/{folder}")
    print(f"{len(crossed)} functions in {len(files)} files")


if __name__ == "__main__":
    main()
