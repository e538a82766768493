"""Agents: the client of the package mcp, over a real socket, with the protocol of today and of before."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent

from service.access.api_key import Limits
from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.generations import GENERATIONS, error_of, images_of
from tests.support.process import ROOT
from tests.support.server import Running, ready_server, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import is_image, picture, upload

pytestmark = pytest.mark.slow

PICTURE = base64.b64encode(picture(70)).decode()
MODES = ["auto", "legacy"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(Settings(data_dir=tmp_path_factory.mktemp("server"), mcp=True), tiny_generator()) as running:
        running.wait_until_settled()
        yield running


@asynccontextmanager
async def agent(server: Running, *, mode: str = "auto", key: Key | None = None) -> AsyncIterator[Client]:
    headers = {} if key is None else key.headers
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


async def told(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool says, as text and as it is."""
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    assert isinstance(result.content[-1], TextContent)
    assert json.loads(result.content[-1].text) == result.structured_content
    said: dict[str, Any] = result.structured_content
    return said


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert result.is_error
    (text,) = result.content
    assert isinstance(text, TextContent)
    return text.text


@pytest.mark.parametrize("mode", MODES)
async def test_an_agent_lists_the_tools_makes_a_style_and_draws_in_it(
    server: Running, client: httpx.Client, mode: str
) -> None:
    async with agent(server, mode=mode) as it:
        listed = {tool.name: tool for tool in (await it.list_tools()).tools}
        assert list(listed) == ["create_style", "list_styles", "generate_image", "edit_image"]
        assert listed["generate_image"].input_schema["required"] == ["prompt"]
        style = await told(it, "create_style", images=[PICTURE], name=f"reeds {mode}")
        assert style["is_new"] == (mode == MODES[0])
        assert style["id"] in [known["id"] for known in (await told(it, "list_styles"))["styles"]]
        steps: list[tuple[float, float | None]] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            steps.append((progress, total))
            assert message is not None

        arguments = {"prompt": "a star", "style": style["id"], "strength": 0.7, "seed": 7, "n": 2}
        result = await it.call_tool("generate_image", arguments, progress_callback=on_progress)
    assert isinstance(result, CallToolResult)
    files = [base64.b64decode(part.data) for part in result.content if isinstance(part, ImageContent)]
    body = {"prompt": "a star", "style": {"id": style["id"], "strength": 0.7}, "seed": 7, "n": 2}
    drawn = await asyncio.to_thread(client.post, GENERATIONS, json=body)
    assert files == images_of(drawn)
    said = result.structured_content["images"]
    assert [(image["seed"], image["style"], image["size"]) for image in said] == [
        (7, style["id"], "64x64"),
        (8, style["id"], "64x64"),
    ]
    assert len(steps) == 8
    assert steps == sorted(steps)
    assert steps[-1] == (12, 12)


async def test_an_agent_edits_a_picture(server: Running, client: httpx.Client) -> None:
    async with agent(server) as it:
        style = await told(it, "create_style", images=[PICTURE])
        arguments = {"image": PICTURE, "style": style["id"], "structure": 0.5, "seed": 7}
        result = await it.call_tool("edit_image", arguments)
        refused = await refusal(it, "edit_image", image=PICTURE, prompt="a star", mask=PICTURE)
    assert isinstance(result, CallToolResult)
    files = [base64.b64decode(part.data) for part in result.content if isinstance(part, ImageContent)]
    assert files == images_of(await asyncio.to_thread(client.post, "/v1/images/edits", json=arguments))
    assert "no alpha channel" in refused


async def test_an_agent_asks_for_sizes_formats_and_styles_of_words(server: Running) -> None:
    async with agent(server) as it:
        style = await told(it, "create_style", text="ukiyo-e", prompt_suffix="as a woodcut")
        result = await it.call_tool(
            "generate_image",
            {"prompt": "a star", "style": style["id"], "size": "512x512", "output_format": "webp"},
        )
        assert isinstance(result, CallToolResult)
        image = result.content[0]
        assert isinstance(image, ImageContent)
        assert image.mime_type == "image/webp"
        assert is_image(base64.b64decode(image.data), "WEBP", (512, 512))
        (said,) = result.structured_content["images"]
        assert said["prompt"] == "a star, as a woodcut"
        assert any(text.startswith("size 512x512 is not enabled") for text in said["warnings"])


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("generate_image", {"prompt": "a star", "style": "sty_nobody"}, "There is no style 'sty_nobody'"),
        ("generate_image", {"prompt": " "}, "prompt is blank; say what to draw."),
        ("generate_image", {"prompt": "a star", "n": 11}, "n: Input should be less than or equal to 10."),
        ("generate_image", {}, "These arguments of generate_image are wrong. prompt: Field required."),
        ("generate_image", {"prompt": "a", "styel": "x"}, "styel: Extra inputs are not permitted."),
        ("generate_image", {"prompt": "a star", "size": "9999x9999"}, "9999x9999 is out of bounds"),
        ("create_style", {}, "Give one of images, text and code"),
        ("create_style", {"images": ["?"]}, "One of the images is not base64"),
        ("create_style", {"images": ["aGVsbG8="]}, "PNG, JPEG, WebP"),
        ("list_styles", {"after": "sty_nobody"}, "There is no style 'sty_nobody' to continue after."),
        ("paint_image", {}, "There is no tool paint_image; there are create_style, list_styles"),
    ],
)
async def test_a_tool_that_fails_says_why_in_the_services_words(
    server: Running, tool: str, arguments: dict[str, Any], sentence: str
) -> None:
    async with agent(server) as it:
        assert sentence in await refusal(it, tool, **arguments)


async def test_with_keys_an_agent_needs_one_and_has_its_tenant_style_and_limits(tmp_path: Path) -> None:
    shop, other = Key("shop", limits=Limits(images=3)), Key("other")
    with ready_server(tmp_path, tiny_generator(), mcp=True, api_keys=lines(shop, other)) as (server, _):
        with shop.client(server) as client:
            style = upload(client, picture(71)).json()["id"]
        async with agent(server, key=shop) as it:
            assert [known["id"] for known in (await told(it, "list_styles"))["styles"]] == [style]
            await told(it, "generate_image", prompt="a star", style=style, n=2)
            assert "may ask for 3 images a minute" in await refusal(it, "generate_image", prompt="a", n=2)
        async with agent(server, key=other) as it:
            assert (await told(it, "list_styles"))["styles"] == []
            assert "There is no style" in await refusal(it, "generate_image", prompt="a star", style=style)
        with pytest.RaisesGroup(MCPError, flatten_subgroups=True):
            async with agent(server) as it:
                await it.list_tools()
        with server.client() as client:
            assert error_of(client.post("/mcp", json={}), 401)["code"] == "invalid_api_key"


def test_pages_of_other_sites_cannot_call_tools(client: httpx.Client) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        refused = client.post("/mcp", json={}, headers=headers)
        assert error_of(refused, 403)["type"] == "invalid_request_error"


def test_a_call_may_hold_a_picture_and_no_more(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    accepted = client.post("/mcp", content=bytes(2 * 2**20), headers=headers)
    assert accepted.status_code == 400  # not JSON; a body of /v1 may hold 1 MiB
    refused = client.post("/mcp", content=bytes(15 * 2**20), headers=headers)
    assert error_of(refused, 413)["code"] == "payload_too_large"


def test_other_methods_are_refused_and_the_route_has_a_name_in_the_metrics(client: httpx.Client) -> None:
    assert error_of(client.get("/mcp"), 405)["code"] == "method_not_allowed"
    client.post("/mcp", json={})
    assert 'route="POST /mcp"' in client.get("/metrics").text


def test_agents_are_served_only_where_it_is_set(tmp_path: Path) -> None:
    with ready_server(tmp_path, tiny_generator()) as (_, client):
        assert error_of(client.post("/mcp", json={}), 404)["code"] == "not_found"


def test_without_the_package_the_start_says_what_to_install(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['mcp'] = None\n"
        "from service.app import create_app; from service.settings import Settings\n"
        "create_app(Settings())\n"
        "create_app(Settings(mcp=True))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "service.lifecycle.CannotStart: ATELIER_MCP needs the package mcp: pip install 'atelier-style[mcp]'."
    )
