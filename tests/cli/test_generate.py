"""`atelier generate` against a running service: files, output, exit statuses."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service.access.api_key import Limits
from service.cli.connection import NO_SERVICE, REFUSED, TRY_LATER
from service.settings import Settings
from tests.support.api_keys import Key
from tests.support.busy_server import busy
from tests.support.cli import atelier, on_terminal
from tests.support.gated_generator import FailingGenerator
from tests.support.generations import draw, images_of
from tests.support.process import PATIENCE_SECONDS, ROOT, command
from tests.support.server import Running, ready_server, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import is_image, picture, upload

pytestmark = pytest.mark.slow
SIZE = (64, 64)


def test_images_are_saved_under_the_prompt_and_the_seed_and_their_paths_printed(
    server: Running, client: httpx.Client, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "folder"
    run = atelier("generate", "A star!", "-n", "2", "--seed", "1", "-o", out, ATELIER_URL=server.url)
    assert (run.exit_code, run.stderr) == (0, "")
    paths = [Path(line) for line in run.stdout.splitlines()]
    assert paths == [out / "a-star-1.png", out / "a-star-2.png"]
    assert [path.read_bytes() for path in paths] == images_of(draw(client, prompt="A star!", n=2))


def test_a_file_that_exists_is_kept_unless_it_was_named(server: Running, tmp_path: Path) -> None:
    arguments = ("generate", "a star", "--seed", "1", "--url", server.url, "-o")
    for name in ("a-star-1.png", "a-star-1-2.png"):
        assert atelier(*arguments, tmp_path).stdout == f"{tmp_path / name}\n"
    named = tmp_path / "mine.JPG"
    named.write_bytes(b"old")
    assert atelier(*arguments, named).stdout == f"{named}\n"
    assert is_image(named.read_bytes(), "JPEG", SIZE)
    several = atelier(*arguments, named, "-n", "2")
    assert several.exit_code == 2
    assert "name a folder" in several.stderr


def test_one_style_or_several_are_drawn_in(server: Running, client: httpx.Client, tmp_path: Path) -> None:
    ids = [upload(client, picture(seed)).json()["id"] for seed in (60, 61)]
    arguments = ("generate", "a star", "--seed", "1", "-o", tmp_path, "--url", f"{server.url}/v1/", "-s")
    (one,) = atelier(*arguments, ids[0], "--strength", "0.5").stdout.splitlines()
    expected = images_of(draw(client, style={"id": ids[0], "strength": 0.5}))
    assert [Path(one).read_bytes()] == expected
    each = atelier(*arguments, ids[0], "-s", ids[1]).stdout.splitlines()
    assert [Path(path).read_bytes() for path in each] == images_of(draw(client, styles_each=ids))
    assert [Path(path).name for path in each] == [
        f"a-star-1-{id[-6:]}{more}.png" for id, more in zip(ids, ("-2", ""), strict=True)
    ]


def test_json_is_for_scripts(server: Running, tmp_path: Path) -> None:
    arguments = ("generate", "xyzzy", "-n", "2", "-o", tmp_path, "--json", "--url", server.url)
    run = atelier(*arguments)
    first, second = json.loads(run.stdout)["images"]
    assert run.stderr == ""
    assert is_image(Path(first["path"]).read_bytes(), "PNG", SIZE)
    assert second["seed"] == first["seed"] + 1
    assert "names nothing" in first["warnings"][0]
    assert "b64_json" not in first
    events = [json.loads(line) for line in atelier(*arguments, "--stream").stdout.splitlines()]
    assert len(events) == 8  # three previews and an image, twice
    assert [event["step"] for event in events if event["image_index"] == 0] == [3, 4, 5, 6]
    assert sum("path" in event for event in events) == 2


def test_a_warning_is_printed_once(server: Running, tmp_path: Path) -> None:
    for more in ((), ("--stream",)):
        run = atelier("generate", "xyzzy", "-n", "2", "-o", tmp_path, "--url", server.url, *more)
        assert run.stderr.count("names nothing") == 1


def test_a_refusal_has_the_sentence_of_the_service_and_its_status(server: Running, tmp_path: Path) -> None:
    run = atelier("generate", "a star", "-s", "sty_nobody", "-o", tmp_path, ATELIER_URL=server.url)
    assert run.exit_code == REFUSED
    assert run.stderr.startswith("There is no style 'sty_nobody'.")
    assert not list(tmp_path.iterdir())


def test_without_a_service_it_says_how_to_start_one() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        run = atelier("generate", "a star", ATELIER_URL=f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert run.exit_code == NO_SERVICE
    assert run.stderr.startswith("There is no service at http://127.0.0.1:")
    run = atelier("generate", "a star", ATELIER_URL="localhost:8000")
    assert (run.exit_code, run.stderr.count("must look like http://127.0.0.1:8000")) == (1, 1)


def test_something_else_at_the_address_is_recognised(tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *parts: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.handle_request).start()
        run = atelier("generate", "a star", "--url", f"http://127.0.0.1:{other.server_port}")
    assert run.exit_code == REFUSED
    assert "Is the address, ATELIER_URL or --url, that of an Atelier service?" in run.stderr


def test_the_key_comes_from_the_environment(tmp_path: Path) -> None:
    key = Key("acme")
    with ready_server(tmp_path / "data", tiny_generator(), api_keys=key.line) as (server, _):
        arguments = ("generate", "a star", "-o", tmp_path, "--url", server.url)
        assert atelier(*arguments, ATELIER_API_KEY=key.secret).exit_code == 0
        refused = atelier(*arguments)
        assert refused.exit_code == REFUSED
        assert refused.stderr.endswith("This command sends the key that is in ATELIER_API_KEY.\n")


def test_what_passes_with_time_has_a_status_of_its_own(tmp_path: Path) -> None:
    key = Key("acme", limits=Limits(images=1))
    with ready_server(tmp_path / "data", tiny_generator(), api_keys=key.line) as (server, _):
        arguments = ("generate", "a star", "-o", tmp_path, "--url", server.url)
        runs = [atelier(*arguments, ATELIER_API_KEY=key.secret) for _ in range(2)]
    assert [run.exit_code for run in runs] == [0, TRY_LATER]
    assert "1 more will be available in" in runs[1].stderr


def test_a_failure_while_drawing_is_one_sentence(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path), FailingGenerator(tiny_generator().backbone)) as server:
        server.wait_until_settled()
        run = atelier("generate", FailingGenerator.FAILS_ON, "-o", tmp_path, "--url", server.url)
    assert run.exit_code == 1
    assert run.stderr.count("\n") == 1


def test_ctrl_c_ends_it_with_130_and_no_trace(tmp_path: Path) -> None:
    with (
        busy(tmp_path, max_queued=4) as (server, generator),
        subprocess.Popen(
            command("generate", "a star", "-o", tmp_path, "--url", server.url),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            # A process in the background of a shell would inherit that the signal is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as run,
    ):
        generator.wait_for_batch()
        run.send_signal(signal.SIGINT)
        _, written = run.communicate(timeout=PATIENCE_SECONDS)
        generator.open()
    assert (run.returncode, written) == (130, b"")


def test_a_folder_that_cannot_be_written_is_named(server: Running, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = atelier("generate", "a star", "-o", tmp_path / "file" / "out", "--url", server.url)
    assert run.exit_code == 1
    assert run.stderr.startswith(f"The image cannot be saved as {tmp_path / 'file'}")


def test_a_terminal_gets_a_bar_and_the_picture_and_the_path(server: Running, tmp_path: Path) -> None:
    run = command("generate", "a star", "-n", "2", "--seed", "1", "-o", tmp_path, "--url", server.url)
    status, seen = on_terminal(run, TERM="xterm-kitty", COLUMNS="100")
    assert status == 0
    assert b"drawing" in seen
    assert b"12/12" in seen
    assert b"HTTP" not in seen  # libraries log their requests
    first = seen[seen.index(b"\x1b_Ga=T") :]
    chunks = first[: first.index(b"\n")].split(b"\x1b\\")
    png = base64.b64decode(b"".join(chunk.partition(b";")[2] for chunk in chunks))
    with Image.open(io.BytesIO(png)) as shown, Image.open(tmp_path / "a-star-1.png") as saved:
        assert shown.resize(SIZE, Image.Resampling.NEAREST).tobytes() == saved.tobytes()
    assert str(tmp_path / "a-star-2.png").encode() in seen


def test_a_picture_is_edited(server: Running, client: httpx.Client, tmp_path: Path) -> None:
    photo = tmp_path / "holiday.png"
    photo.write_bytes(picture(3, size=SIZE))
    style = upload(client, picture(70)).json()["id"]
    address = ("--url", server.url)
    restyled = atelier(
        "generate", "-i", photo, "-s", style, "--structure", "0.8", "--seed", "1", "-o", tmp_path, *address
    )
    assert restyled.stdout == f"{tmp_path / f'holiday-1-{style[-6:]}.png'}\n"
    body = {
        "image": base64.b64encode(photo.read_bytes()).decode(),
        "style": style,
        "structure": 0.8,
        "seed": 1,
    }
    answer = client.post("/v1/images/edits", json=body)
    assert images_of(answer) == [Path(restyled.stdout.strip()).read_bytes()]
    for arguments, sentence in (
        ((), "give a picture"),
        (("a star", "--structure", "1"), "needs the picture"),
    ):
        refused = atelier("generate", *arguments, *address)
        assert refused.exit_code == 2
        assert sentence in refused.stderr
