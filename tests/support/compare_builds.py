"""Whether two builds of the service behave alike: `python -m tests.support.compare_builds OLD_TREE NEW_TREE`.

Each source tree serves nano in a process of its own, with one thread and an empty store; both get the same
requests, and then responses and stores are compared. Nothing is stored: images hold on one kind of CPU only.
Exit status 1 on any difference that is not a text for people.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from redis import Redis

from tests.support.compare_requests import BOUNDS, PATIENCE_SECONDS, ImageFile, Session, Summary, Text

KEYS = {"shop": (), "other": (), "slow": ("--tenant", "shop", "--images", "2")}
MAX_SHOWN_CHARS = 100


@dataclass(frozen=True, slots=True)
class Build:
    """A source tree, run by this interpreter."""

    tree: Path
    folder: Path  # of its own, for the store, the log and the API keys
    settings: tuple[str, ...] = ()  # ATELIER_...=value, that it alone knows

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATELIER_")}
        own = dict(setting.split("=", 1) for setting in self.settings)
        return inherited | BOUNDS | own | {"PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "service", *map(str, arguments)]

    def new_key(self, name: str, *options: str) -> tuple[str, str]:
        """The API key and its line for the file of keys."""
        printed = subprocess.run(
            self.command("keys", "new", name, *options), cwd=self.tree, env=self.environment(),
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        secret = re.search(r"^ +(atl_\S+)$", printed, re.MULTILINE)
        assert secret is not None, printed
        return secret[1], printed.splitlines()[-1].strip()

    @contextmanager
    def server(self) -> Iterator[str]:
        """The URL of its server, ready, with the API keys of `folder / keys`."""
        arguments = self.command(
            "serve", "--port", "0", "--model", "nano", "--threads", "1", "--data-dir", self.folder,
            "--api-keys-file", self.folder / "keys",
        )  # fmt: skip
        log = self.folder / "log"
        with (
            log.open("w") as errors,
            subprocess.Popen(
                arguments,
                cwd=self.tree,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as process,
        ):
            assert process.stdout is not None
            try:
                said = ""
                while "/metrics" not in said:
                    line = process.stdout.readline()
                    assert line, f"{self.tree} does not start: {log.read_text()[-2000:]}"
                    said += line
                yield re.findall(r"http://\S+:\d+", said)[0]
            finally:
                process.terminate()
                process.wait(PATIENCE_SECONDS)

    def run(self, keys: dict[str, str]) -> dict[str, Any]:
        """The results to all requests, and what the store holds afterwards, by name."""
        with self.server() as url, httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
            results = Session(client, keys).run()
            return {**results, **stored(self.folder / "store" / "store.sock")}


def stored(socket: Path) -> dict[str, Any]:
    """Records, pictures and features as the store has them; times left out."""
    with Redis(unix_socket_path=str(socket)) as redis:
        found: dict[str, Any] = {}
        for key in sorted(redis.scan_iter("atelier:*")):
            name, kind = key.decode(), redis.type(key)
            if name.startswith("atelier:answer:"):
                continue  # whole responses, with their times
            if kind == b"hash":
                record = redis.hgetall(key)
                found[f"store {name}"] = {k.decode(): v for k, v in record.items() if k != b"created"}
            elif kind == b"string":
                found[f"store {name}"] = redis.get(key)
            elif kind == b"set":
                found[f"store {name}"] = sorted(redis.smembers(key))
            else:
                found[f"store {name}"] = redis.zrange(key, 0, -1)
        assert any(":feature:" in name for name in found), "the store holds no feature"
        return found


@dataclass(frozen=True, slots=True)
class Difference:
    where: str
    what: str
    is_text: bool = False


def differences(old: Any, new: Any, where: str = "") -> Iterator[Difference]:
    """Every place where two results differ."""
    if type(old) is type(new) and isinstance(old, Summary | dict | list):
        before, after = named_parts(old), named_parts(new)
        for name in sorted(before.keys() ^ after.keys()):
            yield Difference(f"{where}.{name}", "removed" if name in before else "added")
        for name in sorted(before.keys() & after.keys()):
            yield from differences(before[name], after[name], f"{where}.{name}")
    elif isinstance(old, ImageFile) and isinstance(new, ImageFile):
        if old != new:
            yield Difference(where, difference_of_images(old, new))
    elif old != new:
        is_text = isinstance(old, Text) and isinstance(new, Text)
        yield Difference(where, f"{shown(old)} became {shown(new)}", is_text)


def named_parts(whole: Summary | dict[str, Any] | list[Any]) -> dict[str, Any]:
    if isinstance(whole, Summary):
        return {part.name: getattr(whole, part.name) for part in fields(whole)}
    return whole if isinstance(whole, dict) else {str(index): part for index, part in enumerate(whole)}


def difference_of_images(old: ImageFile, new: ImageFile) -> str:
    before, after = (np.asarray(Image.open(io.BytesIO(file.content))).astype(int) for file in (old, new))
    if before.shape != after.shape:
        return f"an image of {before.shape} became one of {after.shape}"
    apart = np.abs(before - after)
    if not apart.any():
        return "equal pixels in other bytes"
    return f"{np.count_nonzero(apart)} of {apart.size} values differ, by at most {apart.max()} of 255"


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def run_both(
    old_tree: Path, new_tree: Path, new_settings: Sequence[str], folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    for name in ("old", "new"):
        (folder / name).mkdir()
    builds = (
        Build(old_tree.resolve(), folder / "old"),
        Build(new_tree.resolve(), folder / "new", tuple(new_settings)),
    )
    keys, lines = {"wrong": "atl_wrong"}, []
    for name, options in KEYS.items():
        keys[name], line = builds[0].new_key(name, *options)
        lines.append(line)
    for build in builds:
        (build.folder / "keys").write_text("\n".join(lines) + "\n")
    with ThreadPoolExecutor(len(builds)) as pool:
        old, new = pool.map(lambda build: build.run(keys), builds)
    return old, new


def table(old: dict[str, Any], new: dict[str, Any], found: list[Difference]) -> str:
    rows = []
    for name, result in old.items():
        mine = [difference for difference in found if difference.where.partition(" | ")[0] == name]
        verdict = "equal"
        if mine:
            verdict = "other text" if all(difference.is_text for difference in mine) else "DIFFERENT"
        rows.append(f"{name:<70} {getattr(result, 'status', ''):>4}  {verdict}")
        rows += [f"    {difference.where.partition(' | ')[2]}: {difference.what}" for difference in mine]
    rows += [f"{name:<70}       ADDED" for name in new if name not in old]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old_tree", type=Path)
    parser.add_argument("new_tree", type=Path)
    parser.add_argument("--new", action="append", default=[], metavar="ATELIER_X=Y", help="of the new build")
    trees = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="builds-") as folder:
        old, new = run_both(trees.old_tree, trees.new_tree, trees.new, Path(folder))
    found = [Difference(name, "no longer there") for name in old if name not in new]
    for name in old:
        if name in new:
            found += differences(old[name], new[name], f"{name} | ")
    print(table(old, new, found))
    num_texts = sum(difference.is_text for difference in found)
    num_added = len(new.keys() - old.keys())
    num_different = len(found) - num_texts + num_added
    print(f"\n{len(old)} results and stored values: {num_different} differences, {num_texts} other texts.")
    return 1 if num_different else 0


if __name__ == "__main__":
    sys.exit(main())
