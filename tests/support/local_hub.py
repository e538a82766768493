"""A hub on this machine: real HTTP in the hub's protocol, as far as fetching files needs it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 1000  # bytes from which a file is kept in large-file storage, with a SHA-256


@dataclass
class LocalHub:
    """Repositories of one commit each, on the branch `main`. `asked` has each request, in order."""

    repositories: dict[str, dict[str, bytes]]
    url: str
    asked: list[str] = field(default_factory=list)
    cut_after: dict[str, int] = field(
        default_factory=dict
    )  # a file: drop its next transfer after so many bytes
    forbidden: set[str] = field(default_factory=set)  # files that may not be read from the middle on
    served: dict[str, bytes] = field(default_factory=dict)  # a file: other bytes than the listing says

    commits: dict[str, str] = field(default_factory=dict)  # of a repository, when a test chooses it

    def commit(self, repository: str) -> str:
        return self.commits.get(repository, hashlib.sha1(repository.encode()).hexdigest())

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, a resumed one as `name from N`."""
        return [each.removeprefix("GET ") for each in self.asked if each.startswith("GET ")]


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Server(ThreadingHTTPServer):
    hub: LocalHub


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> LocalHub:
        assert isinstance(self.server, Server)
        return self.server.hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            repository, kind, revision = match.groups()
            if self._is_known(repository, revision):
                self._send_json(self._info(repository) if kind == "revision" else self._tree(repository))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commits/main", path):
            if self._is_known(match[1], "main"):
                self._send_json([self._commit(self.hub.commit(match[1])), self._commit("ab" * 20)])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository, revision, name = match.groups()
            if self._is_known(repository, revision):
                self._send_file(repository, name, with_content=with_content)
        else:
            self._refuse("EntryNotFound")

    def _is_known(self, repository: str, revision: str) -> bool:
        if repository not in self.hub.repositories:
            self._refuse("RepoNotFound")
            return False
        if revision not in ("main", self.hub.commit(repository)):
            self._refuse("RevisionNotFound")
            return False
        return True

    def _info(self, repository: str) -> object:
        return {"id": repository, "modelId": repository, "sha": self.hub.commit(repository), "siblings": []}

    def _commit(self, commit: str) -> object:
        return {"id": commit, "authors": [], "date": "2024-12-24T00:00:00.000Z", "title": "", "message": ""}

    def _tree(self, repository: str) -> object:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": blob(content)}
            | (
                {
                    "lfs": {
                        "oid": hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                        "pointerSize": 9,
                    }
                }
                if len(content) >= LARGE
                else {}
            )
            for name, content in self.hub.repositories[repository].items()
        ]

    def _send_file(self, repository: str, name: str, *, with_content: bool) -> None:
        if name not in self.hub.repositories[repository]:
            self._refuse("EntryNotFound")
            return
        listed = self.hub.repositories[repository][name]
        etag = hashlib.sha256(listed).hexdigest() if len(listed) >= LARGE else blob(listed)
        content, start = self.hub.served.get(name, listed), 0
        if requested := re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", "")):
            start = int(requested[1])
        self.hub.asked.append(f"{self.command} {name}" + (f" from {start}" if start else ""))
        if start and name in self.hub.forbidden:
            self._refuse("", status=403)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", self.hub.commit(repository))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_content:
            end = start + self.hub.cut_after.pop(name, len(content))
            self.wfile.write(content[start:end])
            self.close_connection = end < len(content)

    def _send_json(self, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, code: str, status: int = 404) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def local_hub(repositories: dict[str, dict[str, bytes]]) -> Iterator[LocalHub]:
    with Server(("127.0.0.1", 0), Answering) as server:
        server.hub = LocalHub(repositories, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.hub
        finally:
            server.shutdown()
            thread.join()
