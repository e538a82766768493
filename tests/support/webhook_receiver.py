"""A real server that receives webhooks."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_SECONDS = 60
SILENCE = 0  # in place of a status: no answer


@dataclass
class Receiver:
    """Answers with these statuses, then with 204. `requests` are the headers and bodies of all that came."""

    port: int
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    arrived: queue.SimpleQueue[tuple[dict[str, str], bytes]] = field(default_factory=queue.SimpleQueue)
    has_ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def next(self) -> tuple[dict[str, str], bytes]:
        """Headers and body of the oldest request that was not yet taken, once there is one."""
        return self.arrived.get(timeout=PATIENCE_SECONDS)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, answer: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), answer)

    def handle_error(self, *_: Any) -> None:
        """A client that did not like the certificate, or was killed, is none."""


@contextmanager
def receiving(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests.append((dict(self.headers), content))
            status = receiver.statuses.pop(0) if receiver.statuses else 204
            receiver.arrived.put(receiver.requests[-1])
            if status == SILENCE:
                receiver.has_ended.wait()
                return
            self.send_response(status)
            if status == 307:
                self.send_header("Location", f"{receiver.url}/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with _Server(host, Answer) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        receiver = Receiver(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield receiver
        finally:
            receiver.has_ended.set()
            server.shutdown()
