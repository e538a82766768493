"""The page of a poll: two images, a style, a prompt. A small server on 127.0.0.1, without the service.

Nothing that is sent says how an image was drawn before the scores are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from service.evaluation.paper.preferences import Poll

_HOST = "127.0.0.1"
_MAX_BODY_BYTES = 1_000
_FILES = {
    "/": ("preference_page.html", "text/html; charset=utf-8"),
    "/preference_page.js": ("preference_page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that gets no answer but a status and a sentence."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def make_server(poll: Poll, port: int) -> ThreadingHTTPServer:
    """A server that is bound, and not running yet. ValueError when the port is taken."""
    lock = Lock()

    class Handler(_Handler):
        def answer(self, method: str) -> None:
            with lock:
                self.respond(poll, method)

    try:
        return ThreadingHTTPServer((_HOST, port), Handler)
    except OSError as error:
        raise ValueError(f"Port {port} cannot be used: {error.strerror}. Choose another --port.") from error


def serve(poll: Poll, port: int, on_ready: Callable[[str], None]) -> None:
    """Until Ctrl-C. `on_ready` is told the address."""
    with make_server(poll, port) as server:
        on_ready(f"http://{_HOST}:{server.server_port}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def answer(self, method: str) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal is for the address."""

    def respond(self, poll: Poll, method: str) -> None:
        try:
            self._require_this_page(method)
            content, media_type = self._found(poll, method)
        except Refused as refused:
            # What it sent may be unread, and would be taken for the next request.
            self.close_connection = True
            self._send(refused.status, json.dumps({"error": str(refused)}).encode(), "application/json")
            return
        self._send(HTTPStatus.OK, content, media_type)

    def _require_this_page(self, method: str) -> None:
        """Another site's page, under its own name or one that leads here, can neither look nor vote."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        names = {f"{name}:{port}" for name in (_HOST, "localhost")}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in names:
            raise Refused(HTTPStatus.FORBIDDEN, f"open http://{_HOST}:{port}/")
        if method == "POST" and origin is not None and origin.removeprefix("http://") not in names:
            raise Refused(HTTPStatus.FORBIDDEN, "votes come from this page alone")

    def _found(self, poll: Poll, method: str) -> tuple[bytes, str]:
        if method == "POST":
            return self._changed(poll), "application/json"
        if file := _FILES.get(self.path):
            return (Path(__file__).parent / file[0]).read_bytes(), file[1]
        if self.path == "/question":
            return json.dumps(question_of(poll)).encode(), "application/json"
        if self.path == "/scores":
            found = {arm: asdict(score) for arm, score in poll.scores().items()}
            return json.dumps(found).encode(), "application/json"
        return self._image(poll), "image/webp"

    def _image(self, poll: Poll) -> bytes:
        """`/image/NUMBER/left`, `right` or `style`, of a question by its number."""
        try:
            _, kind, number, side = self.path.split("/")
            question = poll.questions[int(number)]
        except (ValueError, IndexError):
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page") from None
        if kind != "image" or side not in ("left", "right", "style") or int(number) < 0:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        return (poll.style_image(question) if side == "style" else poll.image(question, side)).read_bytes()

    def _changed(self, poll: Poll) -> bytes:
        """A vote, or the last one taken back; then the next question."""
        body = self._body()
        try:
            if self.path == "/vote":
                poll.add(poll.questions[int(body["number"])], str(body["choice"]))
            elif self.path == "/undo":
                poll.undo()
            else:
                raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        return json.dumps(question_of(poll)).encode()

    def _body(self) -> dict[str, Any]:
        try:
            length = int(self.headers.get("Content-Length", "0"))
            if not 0 <= length <= _MAX_BODY_BYTES:
                raise ValueError(f"a body has at most {_MAX_BODY_BYTES} bytes")
            body = json.loads(self.rfile.read(length) or b"{}")
            if not isinstance(body, dict):
                raise ValueError("a body is a JSON object")
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        return body

    def _send(self, status: HTTPStatus, content: bytes, media_type: str) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def question_of(poll: Poll) -> dict[str, Any]:
    """What the page shows of the next question."""
    question = poll.next()
    counts = {"num_votes": len(poll.votes), "num_questions": len(poll.questions)}
    if question is None:
        return {**counts, "number": None}
    return {**counts, "number": poll.questions.index(question), "prompt": poll.prompt(question)}
