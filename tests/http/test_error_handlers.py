"""Every failure has the one error body, and its message says what would be right."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from service.http.middleware.telemetry import Telemetry
from service.metrics import Metrics
from tests.support.busy_server import metric
from tests.support.generations import GENERATIONS, error_of
from tests.support.server import Running
from tests.support.uploads import picture, upload


@pytest.mark.parametrize(
    ("fields", "param", "code", "part_of_message"),
    [
        ({"prompt": None}, "prompt", "invalid_value", "valid string"),
        ({"prompt": ""}, "prompt", "invalid_value", "at least 1 character"),
        ({"prompt": "  "}, "prompt", "invalid_value", "blank"),
        ({"prompt": "x" * 32_001}, "prompt", "invalid_value", "32001 characters; it may have 32000"),
        ({"prompt": "\ud800"}, "prompt", "invalid_value", "valid string"),
        ({"negative_prompt": "x" * 32_001}, "negative_prompt", "invalid_value", "it may have 32000"),
        ({"styel": "sty_x"}, "styel", "unknown_parameter", "Did you mean style?"),
        ({"xyzzy": 1}, "xyzzy", "unknown_parameter", "prompt, model, n, size"),
        ({"xyzzy": None}, "xyzzy", "unknown_parameter", "prompt, model, n, size"),
        ({"\ud800": 1}, "\\ud800", "unknown_parameter", "There are: "),
        ({"n": 0}, "n", "invalid_value", "greater than or equal to 1"),
        ({"n": 11}, "n", "invalid_value", "less than or equal to 10"),
        ({"n": "2"}, "n", "invalid_value", "valid integer"),
        ({"n": True}, "n", "invalid_value", "valid integer"),
        ({"seed": -1}, "seed", "invalid_value", "greater than or equal to 0"),
        ({"seed": 2**32}, "seed", "invalid_value", "less than or equal to 4294967295"),
        ({"guidance": "4"}, "guidance", "invalid_value", "valid number"),
        ({"size": "15x64"}, "size", "unsupported_size", "a side has 16 to 4096 pixels"),
        ({"size": "4096x1025"}, "size", "unsupported_size", "an image at most 4194304"),
        ({"size": "large"}, "size", "unsupported_size", "write auto, or WIDTHxHEIGHT"),
        ({"model": "dall-e-3"}, "model", "model_not_found", "has no model dall-e-3. Name one of tiny"),
        ({"quality": "best"}, "quality", "invalid_value", "'auto', 'high', 'medium', 'low'"),
        ({"background": "transparent"}, "background", "unsupported_value", "images are opaque"),
        ({"background": "white"}, "background", "invalid_value", "'auto' or 'opaque'"),
        ({"output_format": "gif"}, "output_format", "unsupported_value", "'png', 'jpeg' or 'webp'"),
        ({"output_format": "bmp"}, "output_format", "invalid_value", "'png', 'jpeg' or 'webp'"),
        ({"output_compression": 101}, "output_compression", "invalid_value", "less than or equal to 100"),
        ({"output_compression": 50}, "output_compression", "invalid_value", "png is lossless"),
        ({"response_format": "png"}, "response_format", "invalid_value", "'b64_json' or 'url'"),
        ({"stream": "yes"}, "stream", "invalid_value", "valid boolean"),
        ({"partial_images": 4}, "partial_images", "invalid_value", "less than or equal to 3"),
        ({"priority": "high"}, "priority", "invalid_value", "'normal' or 'low'"),
        ({"style": 7}, "style", "unsupported_value", "must be a style ID"),
        ({"style": {"strength": 1}}, "style.id", "missing_required_parameter", "missing"),
        ({"style": {"id": "sty_x", "strenght": 1}}, "style.strenght", "unknown_parameter", "strength?"),
        ({"style": {"id": "sty_x", "strength": 2}}, "style.strength", "invalid_value", "1.5"),
        ({"style": "vibrant"}, "style", "style_not_found", "vibrant"),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(
    client: httpx.Client, fields: dict[str, object], param: str, code: str, part_of_message: str
) -> None:
    content = json.dumps({"prompt": "a star"} | fields)  # escapes what UTF-8 cannot carry
    refused = client.post(GENERATIONS, content=content, headers={"Content-Type": "application/json"})
    error = error_of(refused, 404 if code.endswith("_not_found") else 400)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert part_of_message in error["message"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_body"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_body"),
        (b"null", "invalid_body"),
        (b'"a star"', "invalid_body"),
        (b"\xff\xfe", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "invalid_body"),
        (b'{"prompt": "a", "guidance": NaN}', "invalid_value"),
        (b'{"n": 1}', "missing_required_parameter"),
    ],
)
def test_a_body_that_is_no_request_is_refused(client: httpx.Client, content: bytes, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    assert error_of(client.post(GENERATIONS, content=content, headers=headers), 400)["code"] == code


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("path", [GENERATIONS, "/v1/styles"])
def test_another_content_type_is_refused_with_the_right_one(
    client: httpx.Client, path: str, content_type: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    error = error_of(client.post(path, content=b"prompt=a", headers=headers), 415)
    assert error["code"] == "unsupported_media_type"
    assert ("application/json" if path == GENERATIONS else "multipart/form-data") in error["message"]


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=x", 'multipart/form-data; boundary=""'],
)
def test_a_malformed_form_is_refused(client: httpx.Client, content_type: str) -> None:
    refused = client.post("/v1/styles", content=b"--y\r\nnonsense", headers={"Content-Type": content_type})
    assert error_of(refused, 400)["type"] == "invalid_request_error"


def test_a_path_or_method_that_does_not_exist_is_named(client: httpx.Client) -> None:
    error = error_of(client.get("/v1/nothing"), 404)
    assert (error["code"], "/v1/nothing" in error["message"]) == ("not_found", True)
    refused = client.put("/v1/styles")
    error = error_of(refused, 405)
    assert error["code"] == "method_not_allowed"
    assert refused.headers["Allow"] == "GET, HEAD, POST"
    assert "GET, HEAD, POST" in error["message"]


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}, {"limt": 1}]
)
def test_a_wrong_query_is_named(client: httpx.Client, query: dict[str, str]) -> None:
    error = error_of(client.get("/v1/styles", params=query), 400)
    assert error["param"] == next(iter(query))


def test_a_body_over_the_bound_is_refused_before_it_is_sent(server: Running) -> None:
    for kind, num_bytes in (("application/json", 2**20 + 1), ("multipart/form-data; boundary=x", 2**30)):
        with socket.create_connection((server.host, server.port)) as connection:
            head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
            connection.sendall(f"{head}Content-Length: {num_bytes}\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_no_declared_length_is_refused_once_it_is_over_the_bound(client: httpx.Client) -> None:
    endless = (b"x" * 2**16 for _ in range(200))
    headers = {"Content-Type": "application/json"}
    assert (
        error_of(client.post(GENERATIONS, content=endless, headers=headers), 413)["code"]
        == "payload_too_large"
    )


async def test_what_nobody_foresaw_is_a_500_that_tells_nothing_and_can_be_found_in_the_log() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a secret")

    transport = httpx.ASGITransport(Telemetry(failing, Metrics()))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        refused = await client.get("/")
    error = error_of(refused, 500)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in refused.text


def test_an_upload_over_the_bound_is_refused_with_the_bound(client: httpx.Client) -> None:
    error = error_of(upload(client, picture() + bytes(11 * 2**20)), 413)
    assert error["code"] == "payload_too_large"
    assert str(10 * 2**20) in error["message"]


@pytest.mark.parametrize("path", [GENERATIONS, "/v1/styles"])
def test_json_nested_too_deeply_is_named(client: httpx.Client, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"[" * 100_000, b'{"prompt":' * 100_000):
        error = error_of(client.post(path, content=content, headers=headers), 400)
        assert "too many levels of brackets" in error["message"]
        assert error["code"] == "invalid_json"
    error = error_of(client.post(path, content=b"\xff", headers=headers), 400)
    assert error["message"] == "The body is not text in UTF-8."


def test_messages_have_no_words_of_the_framework(client: httpx.Client) -> None:
    blank = error_of(client.post("/v1/styles", json={"text": " "}), 400)
    assert blank["message"] == "text must not be blank."
    no_object = error_of(client.post(GENERATIONS, json={"prompt": "a star", "styles": [5]}), 400)
    assert (no_object["message"], no_object["param"]) == ("styles.0 must be a JSON object.", "styles.0")


def test_head_has_the_headers_of_get_and_no_body(client: httpx.Client) -> None:
    for path in ("/livez", "/version", "/v1/styles", "/v1/models", "/openapi.json", "/docs"):
        got, head = client.get(path), client.head(path)
        assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
        assert head.headers["content-length"] == str(len(got.content))
    assert client.head("/v1/styles/sty_x").status_code == 404
    refused = client.head(GENERATIONS)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert "HEAD" in client.post("/v1/models").headers["Allow"]


def test_head_is_counted_as_the_get_that_it_answers(client: httpx.Client) -> None:
    before = metric(client, 'atelier_requests_total{code="200",route="GET /version"}')
    client.head("/version")
    assert metric(client, 'atelier_requests_total{code="200",route="GET /version"}') == before + 1


def test_no_cache_keeps_an_answer_under_v1(client: httpx.Client) -> None:
    for path in ("/v1/styles", "/v1/models", "/v1/styles/sty_x"):
        assert client.get(path).headers["Cache-Control"] == "no-store"
    assert "Cache-Control" not in client.get("/version").headers
