"""Jobs on a service that is killed: what its clients see of it.

    python -m tests.support.job_chaos --jobs 200 --service-kills 3 --store-kills 1

starts `atelier serve`, submits jobs from one thread, and kills the service, and its Valkey, with -9 while
they are drawn. The process is started again each time. The log goes to the standard output; the exit status
is 1 unless every job succeeded, and was the same job with the same result whenever it was looked at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.generations import GENERATIONS
from tests.support.process import Serving, command, started

PATIENCE_SECONDS = 1800
PAUSE_SECONDS = 0.1  # between two looks at a service that is being started again


@dataclass
class Seen:
    """What the client has seen: `ids` by Idempotency-Key, and the digest of each result by ID."""

    ids: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)  # IDs whose result was another one later
    attempts: Counter[int] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)


@dataclass
class Chaos:
    """One run. `model` is what `--model` takes."""

    folder: Path
    model: str
    num_jobs: int
    seed: int = 0
    say: Callable[[str], None] = print
    seen: Seen = field(default_factory=Seen)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._stack = ExitStack()
        self._began = time.monotonic()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30)
        self._num_starts = 0

    def run(self, *, service_kills: int, store_kills: int) -> Seen:
        kills = ["service"] * service_kills + ["store"] * store_kills
        self._random.shuffle(kills)
        # Each somewhere in a stretch of its own, so that jobs have been drawn before and are left after it.
        width = self.num_jobs / (len(kills) + 1)
        due = [int(width * (index + self._random.uniform(0.3, 1.0))) for index in range(len(kills))]
        with self._stack, self._client:
            serving = self._start()
            submitting = threading.Thread(target=self._submit_all, name="submit")
            submitting.start()
            for at, what in zip(due, kills, strict=True):
                self._until(at)
                if what == "service":
                    self._tell(f"kill -9 of the service, process {serving.process.pid}")
                    serving.process.kill()
                    serving.process.wait()
                    serving = self._start()
                else:
                    pid = int((self.folder / "store" / "server.lock").read_text())
                    self._tell(f"kill -9 of Valkey, process {pid}")
                    os.kill(pid, signal.SIGKILL)
            submitting.join(PATIENCE_SECONDS)
            self._until(self.num_jobs)
            self._look_once_more()
            serving.end(signal.SIGTERM)
        return self.seen

    def _start(self) -> Serving:
        self._num_starts += 1
        serve = command("serve", "--port", str(self._port), "--data-dir", self.folder, "--model", self.model)
        log = self.folder / f"service-{self._num_starts}.log"
        serving = self._stack.enter_context(started(serve, log=log))
        self._tell(f"the service is ready, process {serving.process.pid}")
        return serving

    def _submit_all(self) -> None:
        """Each until its 202 has come; one without an answer is sent again with its key."""
        with httpx.Client(base_url=self._client.base_url, timeout=30) as client:
            for number in range(self.num_jobs):
                key = f"chaos-{number}"
                headers = {"Idempotency-Key": key, "Prefer": "respond-async"}
                body = {"prompt": f"a star {number}"}
                while True:
                    try:
                        response = client.post(GENERATIONS, json=body, headers=headers)
                    except httpx.TransportError:
                        time.sleep(PAUSE_SECONDS)
                        continue
                    if response.status_code == 202:
                        self.seen.ids[key] = response.json()["id"]
                        break
                    assert response.status_code in (409, 429, 503), response.text
                    time.sleep(PAUSE_SECONDS)
        self._tell(f"{self.num_jobs} jobs are accepted")

    def _until(self, num_succeeded: int) -> None:
        """Look at all jobs until so many have succeeded."""
        deadline, reported = time.monotonic() + PATIENCE_SECONDS, -1
        while time.monotonic() < deadline:
            statuses = self._look()
            if statuses["succeeded"] >= num_succeeded:
                return
            if statuses["succeeded"] // 25 != reported:
                reported = statuses["succeeded"] // 25
                counted = (f"{number} {status}" for status, number in sorted(statuses.items()))
                self._tell(", ".join(counted) or "it does not answer yet")
            time.sleep(PAUSE_SECONDS)
        raise TimeoutError(f"of {self.num_jobs} jobs {num_succeeded} do not succeed: {self._look()}")

    def _look(self) -> Counter[str]:
        try:
            jobs = list(self._listed())
            for job in jobs:
                if job["status"] == "succeeded" and job["id"] not in self.seen.results:
                    self._keep(job["id"])
        except httpx.TransportError:
            return Counter()
        return Counter(job["status"] for job in jobs)

    def _listed(self) -> Iterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            response = self._client.get("/v1/jobs", params={"limit": 100, "order": "asc", **after})
            if response.status_code != 200:  # the store, or the service, is being started again
                return
            page = response.json()
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    def _keep(self, job_id: str) -> None:
        response = self._client.get(f"/v1/jobs/{job_id}")
        if response.status_code != 200:
            return
        digest = hashlib.sha256(json.dumps(response.json()["result"]).encode()).hexdigest()
        if self.seen.results.setdefault(job_id, digest) != digest:
            self.seen.changed.append(job_id)

    def _look_once_more(self) -> None:
        for job in self._listed():
            self.seen.statuses[job["status"]] += 1
            self.seen.attempts[job["attempts"]] += 1
            self._keep(job["id"])
        self._tell(
            f"at the end: {dict(self.seen.statuses)}; {len(set(self.seen.ids.values()))} IDs were given out; "
            f"{len(set(self.seen.results.values()))} different results, of which {len(self.seen.changed)} "
            f"changed; jobs by their number of starts: {dict(sorted(self.seen.attempts.items()))}"
        )

    def _tell(self, what: str) -> None:
        self.say(f"{time.monotonic() - self._began:7.2f} s  {what}")


def is_kept(seen: Seen, num_jobs: int) -> bool:
    """Whether every accepted job succeeded, once, with one result."""
    return (
        seen.statuses == Counter(succeeded=num_jobs)
        and len(set(seen.ids.values())) == num_jobs == len(seen.results)
        and set(seen.ids.values()) == set(seen.results)
        and not seen.changed
    )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.job_chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--service-kills", type=int, default=3)
    parser.add_argument("--store-kills", type=int, default=1)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, model {arguments.model}")
    with _folder() as folder:
        chaos = Chaos(folder, arguments.model, arguments.jobs, arguments.seed)
        seen = chaos.run(service_kills=arguments.service_kills, store_kills=arguments.store_kills)
    print("kept" if is_kept(seen, arguments.jobs) else "NOT KEPT")
    return 0 if is_kept(seen, arguments.jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
