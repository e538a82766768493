"""Connections that send too much, too little or too slowly end soon, with a sentence; others go on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.settings import Settings
from tests.support.busy_server import metric
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator

PATIENCE_SECONDS = 30
CLOSED = 'atelier_closed_connections_total{{reason="{}"}}'


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A ready server with short timeouts."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("bounded"),
        max_connections=20,
        max_header_bytes=4096,
        header_timeout_seconds=0.5,
        silence_timeout_seconds=0.5,
    )
    with serving(settings, tiny_generator()) as running:
        running.wait_until_settled()
        yield running


def connect(server: Running) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=PATIENCE_SECONDS)


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the server closes; a reset counts as closed."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def error_of(response: bytes) -> tuple[int, str]:
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


def test_a_header_over_the_bound_is_refused_whether_it_ends_or_not(bounded: Running) -> None:
    long = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 6000
    for request in (long + b"\r\n\r\n", long):
        with closing(connect(bounded)) as connection:
            connection.sendall(request)
            assert error_of(rest_of(connection)) == (431, "header_too_large")
    with bounded.client() as client:
        assert client.get("/livez", headers={"X-Long": "a" * 3000}).status_code == 200
        assert metric(client, CLOSED.format("header_too_large")) == 2


def test_many_small_headers_count_together(bounded: Running) -> None:
    with closing(connect(bounded)) as connection:
        lines = b"".join(b"X-%d: aaaaaaaaaa\r\n" % number for number in range(400))
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
        assert error_of(rest_of(connection)) == (431, "header_too_large")


@pytest.mark.parametrize("start", [b"", b"GET /livez HTTP/1.1\r\nHost: local"])
def test_a_header_that_does_not_come_is_not_waited_for(bounded: Running, start: bytes) -> None:
    with closing(connect(bounded)) as connection:
        connection.sendall(start)
        assert error_of(rest_of(connection)) == (408, "request_timeout")


def test_a_second_header_on_a_connection_is_timed_as_well(bounded: Running) -> None:
    with closing(connect(bounded)) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(b"GET /liv")
        assert error_of(rest_of(connection)) == (408, "request_timeout")


def test_half_a_body_is_not_waited_for(bounded: Running) -> None:
    with closing(connect(bounded)) as connection:
        connection.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert error_of(rest_of(connection)) == (408, "request_timeout")


def test_connections_over_the_bound_are_told_so_and_the_others_live(bounded: Running) -> None:
    with bounded.client() as client:
        assert client.get("/livez").status_code == 200  # holds one of the twenty
        before = metric(client, CLOSED.format("too_many_connections"))
        held = [connect(bounded) for _ in range(25)]
        refused = [connection for connection in held[19:] if error_of(rest_of(connection))[0] == 503]
        assert len(refused) == 6
        for connection in held:
            connection.close()
        assert client.get("/livez").status_code == 200
        assert metric(client, CLOSED.format("too_many_connections")) == before + 6


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.example\r\n"])
def test_a_request_has_one_host(bounded: Running, hosts: bytes) -> None:
    with closing(connect(bounded)) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n" + hosts + b"\r\n")
        assert error_of(rest_of(connection)) == (400, "invalid_value")


def test_bytes_that_are_not_http_get_the_error_body(bounded: Running) -> None:
    with closing(connect(bounded)) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert error_of(rest_of(connection)) == (400, "malformed_request")


def test_bodies_in_progress_are_bounded_together(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, max_body_bytes_in_progress=2**20)
    with serving(settings, tiny_generator()) as server:
        server.wait_until_settled()
        head = (
            b"POST /v1/styles HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: %d\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 900000\r\n\r\n--x"
        )
        with closing(connect(server)) as first, closing(connect(server)) as second:
            first.sendall(head % 1)
            with server.client() as client:
                while metric(client, "atelier_requests_running") < 2:
                    pass
            second.sendall(head % 2)
            response = second.recv(65536)
            assert b" 429 " in response
            assert b"retry-after: 2" in response.lower()


CHUNKED = (
    b"POST /v1/styles HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)


@pytest.mark.parametrize(
    "part",
    [
        b"2;" + b"a" * 4000,
        b"2\r\n{}\r\n0\r\nX-Long: " + b"a" * 4000,
        b"2\r\n{}\r\n0\r\n" + b"X-A: b\r\n" * 600,
    ],
    ids=["chunk_extension", "long_trailer", "many_trailers"],
)
def test_what_is_around_the_chunks_of_a_body_is_bounded(bounded: Running, part: bytes) -> None:
    with closing(connect(bounded)) as connection:
        connection.sendall(CHUNKED)
        try:
            for _ in range(100):
                connection.sendall(part)
                part = part[-4000:]  # without the start of the chunk
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused and closed
        assert error_of(rest_of(connection)) == (431, "header_too_large")


def test_trailers_are_not_taken_for_headers(bounded: Running) -> None:
    with closing(connect(bounded)) as connection:
        trailers = b"X-Request-ID: from-a-trailer\r\nIdempotency-Key: a b\r\n"
        connection.sendall(CHUNKED + b"2\r\n{}\r\n0\r\n" + trailers + b"\r\n")
        answer = rest_of(connection)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"from-a-trailer" not in answer
        assert b"text is missing" in answer


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked",
        b"Content-Length: +2",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"X-A: b\nContent-Length: 2",
        b"X-A: b\rContent-Length: 2",
    ],
)
def test_a_body_whose_length_can_be_read_in_two_ways_is_refused(bounded: Running, framing: bytes) -> None:
    with closing(connect(bounded)) as connection:
        start = b"POST /v1/styles HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(
            start + framing + b"\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answer = rest_of(connection)
        assert error_of(answer) == (400, "malformed_request")
        assert answer.count(b"\r\n\r\n") == 1  # one response
