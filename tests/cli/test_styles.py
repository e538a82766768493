"""`atelier styles` against a running service."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import pytest
from redis import Redis

from service.cli.connection import REFUSED
from tests.support.cli import atelier, on_terminal
from tests.support.process import ROOT, command
from tests.support.server import Running
from tests.support.uploads import picture, upload, upload_several

pytestmark = pytest.mark.slow


def test_a_style_is_added_listed_shown_and_removed(
    server: Running, client: httpx.Client, tmp_path: Path
) -> None:
    files = [tmp_path / f"{seed}.png" for seed in (70, 71)]
    for file, seed in zip(files, (70, 71), strict=True):
        file.write_bytes(picture(seed))
    added = atelier("styles", "add", *files, "--name", "two of mine", ATELIER_URL=server.url)
    assert (added.exit_code, added.stderr) == (0, "")
    style_id = added.stdout.strip()
    assert client.get(f"/v1/styles/{style_id}").json()["num_images"] == 2
    assert upload_several(client, [picture(71), picture(70)]).json()["id"] == style_id
    again = atelier("styles", "add", *files, "--name", "another name", "--json", ATELIER_URL=server.url)
    assert json.loads(again.stdout)["id"] == style_id
    assert again.stderr == "This style exists, and keeps its name 'two of mine'.\n"
    listed = atelier("styles", "list", ATELIER_URL=server.url).stdout.splitlines()[0].split("\t")
    assert (listed[0], listed[2:]) == (style_id, ["images", "two of mine"])
    shown = atelier("styles", "show", style_id, ATELIER_URL=server.url).stdout
    assert f"id            {style_id}\n" in shown
    assert "name          two of mine\n" in shown
    as_json = atelier("styles", "show", style_id, "--json", ATELIER_URL=server.url).stdout
    assert json.loads(as_json) == client.get(f"/v1/styles/{style_id}").json()
    removed = atelier("styles", "rm", style_id, ATELIER_URL=server.url)
    assert (removed.exit_code, removed.stdout) == (0, f"{style_id} is deleted.\n")
    assert atelier("styles", "show", style_id, ATELIER_URL=server.url).exit_code == REFUSED
    named = atelier("styles", "add", files[0], ATELIER_URL=server.url).stdout.strip()
    assert client.get(f"/v1/styles/{named}").json()["name"] == "70"


def test_a_process_writes_its_result_alone(server: Running) -> None:
    run = subprocess.run(
        command("styles", "list", "--url", server.url), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    assert all(line.startswith("sty_") for line in run.stdout.splitlines())


def test_words_make_a_style_and_nothing_makes_none(server: Running) -> None:
    unknown = atelier("styles", "add", "--text", "zzxq", "--url", server.url)
    assert unknown.stderr == "the text names nothing that tiny knows\n"
    arguments = ("--text", "neon", "--prompt-suffix", "in neon style", "--url", server.url)
    style_id = atelier("styles", "add", *arguments).stdout.strip()
    shown = atelier("styles", "show", style_id, "--url", server.url).stdout
    assert "text          neon\nprompt_suffix in neon style\n" in shown
    assert atelier("styles", "add", "--url", server.url).exit_code == 2
    assert atelier("styles", "add", "no-such.png", "--url", server.url).exit_code == 2


def test_what_is_no_picture_is_refused_in_a_sentence(server: Running, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    refused = atelier("styles", "add", tmp_path / "notes.txt", "--url", server.url)
    assert refused.exit_code == REFUSED
    assert refused.stderr.count("\n") == 1
    assert atelier("styles", "rm", "sty_../../models", "--url", server.url).exit_code == REFUSED


def test_all_pages_are_listed(server: Running, client: httpx.Client) -> None:
    for seed in range(103):
        client.post("/v1/styles", json={"text": "a star", "seed": seed})
    found = json.loads(atelier("styles", "list", "--json", "--url", server.url).stdout)
    assert len({style["id"] for style in found}) == len(found) >= 103


def test_a_terminal_gets_a_table_without_anything_that_commands_it(
    server: Running, client: httpx.Client
) -> None:
    """Names that an earlier version took may hold what the service refuses today."""
    style = upload(client, picture(72), name="a name").json()
    store = server.service.settings.data_dir / "store" / "store.sock"
    with Redis(unix_socket_path=str(store)) as redis:
        redis.hset(f"atelier:style:{style['id']}", "name", "a [red]\x1b]0;title\x07 name")
    run = command("styles", "list", "--url", server.url)
    status, seen = on_terminal(run, TERM="xterm", COLUMNS="120", NO_COLOR="1")
    assert status == 0
    assert style["id"].encode() in seen
    assert "a [red]\ufffd]0;title\ufffd name".encode() in seen
    assert b"\x1b]0;" not in seen
    shown = atelier("styles", "show", style["id"], "--url", server.url).stdout
    assert "\x1b" not in shown
