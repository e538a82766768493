"""`atelier styles export` and `import`: a hundred styles move to an empty store and draw as before."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.cli import atelier
from tests.support.generations import draw, images_of
from tests.support.process import ROOT, command
from tests.support.server import ready_server
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload, upload_several

pytestmark = pytest.mark.slow
NUM_STYLES = 100


def make_styles(client: httpx.Client) -> None:
    for seed in range(NUM_STYLES - 2):
        assert upload(client, picture(1000 + seed), name=f"style {seed}").status_code == 201
    assert upload_several(client, [picture(1), picture(2)]).status_code == 201
    assert client.post("/v1/styles", json={"text": "neon"}).status_code == 201


def styles_of(client: httpx.Client) -> list[dict[str, object]]:
    found: list[dict[str, object]] = client.get("/v1/styles", params={"limit": 100}).json()["data"]
    return found


def num_styles(client: httpx.Client) -> int:
    return len(styles_of(client))


def pictures_of(client: httpx.Client) -> list[bytes]:
    return [
        client.get(f"/v1/styles/{style['id']}/image", params={"index": number}).content
        for style in styles_of(client)
        for number in range(int(str(style["num_images"])))
    ]


def drawn_by(client: httpx.Client) -> list[bytes]:
    return [images_of(draw(client, style=style["id"], seed=7))[0] for style in styles_of(client)]


def test_a_hundred_styles_move_to_an_empty_store_though_the_import_is_killed(tmp_path: Path) -> None:
    archive = tmp_path / "styles.tar"
    with ready_server(tmp_path / "old", tiny_generator()) as (_, client):
        make_styles(client)
        before = styles_of(client), pictures_of(client), drawn_by(client)
        exported = atelier("styles", "export", archive, "--data-dir", tmp_path / "old")
    assert (exported.exit_code, exported.stdout) == (0, f"Exported {NUM_STYLES} styles to {archive}.\n")
    with ready_server(tmp_path / "new", tiny_generator()) as (_, client):
        arguments = ("styles", "import", archive, "--data-dir", tmp_path / "new")
        with subprocess.Popen(command(*arguments), cwd=ROOT) as run:
            while not num_styles(client):
                assert run.poll() is None, "the import ended without a style"
            os.kill(run.pid, signal.SIGKILL)
        num_before = num_styles(client)
        again = atelier(*arguments)
        assert again.exit_code == 0
        assert again.stdout == f"Imported {NUM_STYLES - num_before} styles; already there: {num_before}.\n"
        assert 0 < num_before < NUM_STYLES
        assert (styles_of(client), pictures_of(client), drawn_by(client)) == before
        last = atelier(*arguments).stdout
        assert last == f"Imported 0 styles; already there: {NUM_STYLES}.\n"


def test_a_store_that_no_service_uses_is_exported_and_imported(tmp_path: Path) -> None:
    long = tmp_path / ("a folder whose path is too long for a socket " * 3)
    with ready_server(long, tiny_generator()) as (_, client):
        style = upload(client, picture(1)).json()["id"]
    archive = tmp_path / "styles.tar"
    assert atelier("styles", "export", archive, ATELIER_DATA_DIR=str(long)).stdout.startswith(
        "Exported 1 style to"
    )
    imported = atelier("styles", "import", archive, ATELIER_DATA_DIR=str(tmp_path / "new"))
    assert imported.stdout == "Imported 1 style; already there: 0.\n"
    with ready_server(tmp_path / "new", tiny_generator()) as (_, client):
        assert [found["id"] for found in styles_of(client)] == [style]
        while_it_runs = atelier("styles", "export", archive, ATELIER_DATA_DIR=str(tmp_path / "new"))
        assert while_it_runs.exit_code == 0


def test_what_cannot_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    archive = tmp_path / "styles.tar"
    nowhere = atelier("styles", "export", archive, "--data-dir", tmp_path / "nowhere")
    assert nowhere.exit_code == 1
    assert nowhere.stderr.startswith(f"There is no style store in {tmp_path / 'nowhere'}.")
    assert not (tmp_path / "nowhere").exists()
    missing = atelier("styles", "import", archive, "--data-dir", tmp_path / "new")
    assert (missing.exit_code, "does not exist" in missing.stderr) == (2, True)
    assert atelier("styles", "export", tmp_path / "no" / "folder.tar", "--data-dir", tmp_path).exit_code == 2
    archive.write_bytes(b"no archive" * 100)
    damaged = atelier("styles", "import", archive, "--data-dir", tmp_path / "new")
    assert damaged.exit_code == 1
    assert damaged.stderr.startswith(f"{archive} cannot be imported: ")
    assert not (tmp_path / "new").exists()
    away = atelier("styles", "export", archive, "--redis-url", "redis://127.0.0.1:1")
    assert away.exit_code == 1
    assert away.stderr.startswith("The style store cannot be reached.")
