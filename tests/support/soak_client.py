"""SoakClient: one of many connections, whose requests are sound, wrong, hurried, repeated or given up."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tests.support.soak import Promises, Tally, Upload, upload_of

GENERATIONS = "/v1/images/generations"
# A request without an answer for so long hangs.
PATIENCE_SECONDS = 60
NUM_COMMON = 5  # pictures that many clients upload, and nobody deletes
JSON = {"Content-Type": "application/json"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}

# What a polite client waits when it is told to come back later, at most.
MAX_PAUSE_SECONDS = 2.0
# Refused for what they are, whatever the state of the store and of the queue: only to look at a picture takes
# a place among the uploads.
PICTURE_STATUSES = (415, 422)
WRONG: list[tuple[int, str, str, dict[str, Any]]] = [
    (400, "POST", GENERATIONS, {"content": b"{", "headers": JSON}),
    (400, "POST", GENERATIONS, {"content": b"\xff\xfe", "headers": JSON}),
    (400, "POST", GENERATIONS, {"json": ["a star"]}),
    (400, "POST", GENERATIONS, {"json": {"prompt": "a star", "styel": "sty_x"}}),
    (400, "POST", GENERATIONS, {"json": {"prompt": "a star", "n": 99}}),
    (400, "POST", GENERATIONS, {"json": {"prompt": "a star", "size": "1x1"}}),
    (400, "POST", GENERATIONS, {"json": {"prompt": "a star"}, "headers": {"X-Request-Timeout": "soon"}}),
    (404, "POST", GENERATIONS, {"json": {"prompt": "a star", "style": "sty_none"}}),
    (400, "POST", GENERATIONS, {"json": {"prompt": "a star", "style": "sc1_none"}}),
    (413, "POST", GENERATIONS, {"json": {"prompt": "x" * 2**21}}),
    (415, "POST", GENERATIONS, {"content": b"prompt=a+star"}),
    (400, "POST", "/v1/styles", {"content": b"--x\r\nnonsense", "headers": MULTIPART}),
    (400, "POST", "/v1/styles", {"files": {"picture": b"x"}}),
    (422, "POST", "/v1/styles", {"files": {"image": b""}}),
    (415, "POST", "/v1/styles", {"files": {"image": b"GIF but not really"}}),
    (422, "POST", "/v1/styles", {"files": {"image": upload_of(1).file[:-200]}}),
    (413, "POST", "/v1/styles", {"files": {"image": bytes(11 * 2**20)}}),
    (404, "GET", "/v1/nowhere", {}),
    (404, "GET", "/v1/styles/sty_none", {}),
    (405, "DELETE", GENERATIONS, {}),
]


class SoakClient:
    """Does one thing after the other, chosen by a random generator of its own."""

    def __init__(self, number: int, url: str, tally: Tally, promises: Promises) -> None:
        self.url = url
        self.tally = tally
        self.promises = promises
        self.chance = random.Random(number)
        self.own: list[tuple[str, Upload]] = []  # styles that this client alone may delete
        # Its default would read the machine's certificates, for each client anew.
        self.http = httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS, verify=False)
        self.habits: dict[Callable[[], Awaitable[None]], int] = {
            self.draw: 14,
            self.draw_raw: 3,
            self.draw_in_a_hurry: 5,
            self.draw_and_leave: 8,
            self.draw_again_by_key: 5,
            self.stream: 8,
            self.stream_and_leave: 5,
            self.upload: 12,
            self.upload_by_key: 4,
            self.upload_and_leave: 5,
            self.upload_what_others_do: 4,
            self.break_off: 3,
            self.style_from_words: 2,
            self.style_from_code: 2,
            self.look: 6,
            self.rename: 2,
            self.delete: 5,
            self.err: 10,
            self.probe: 3,
        }

    async def run(self, is_over: Callable[[], bool]) -> None:
        async with self.http:
            while not is_over():
                (act,) = self.chance.choices(list(self.habits), list(self.habits.values()))
                await act()

    # Images

    async def draw(self) -> None:
        body, allowed = self._wish()
        answer = await self._ask("draw", "POST", GENERATIONS, allowed, json=body)
        self._compare(body, answer)

    async def draw_raw(self) -> None:
        body, allowed = self._wish(is_single=True)
        body.pop("output_format", None)
        headers = {"Accept": "image/webp"}
        await self._ask("draw, raw", "POST", GENERATIONS, allowed, json=body, headers=headers)

    async def draw_in_a_hurry(self) -> None:
        body, allowed = self._wish()
        headers = {"X-Request-Timeout": f"{self.chance.uniform(0.001, 0.5):.3f}"}
        answer = await self._ask(
            "draw, hurried", "POST", GENERATIONS, allowed | {504}, json=body, headers=headers
        )
        self._compare(body, answer)

    async def draw_and_leave(self) -> None:
        body, allowed = self._wish()
        await self._ask("draw, left", "POST", GENERATIONS, allowed, leaves=True, json=body)

    async def draw_again_by_key(self) -> None:
        body, allowed = self._wish()
        headers = {"Idempotency-Key": f"k{self.chance.getrandbits(64):x}"}
        allowed |= {409, 503}  # 409: the store died in between, and the claim of the first one is still there
        first = await self._ask("draw by key", "POST", GENERATIONS, allowed, json=body, headers=headers)
        again = await self._ask("draw by key again", "POST", GENERATIONS, allowed, json=body, headers=headers)
        self._compare(body, first)
        self._compare(body, again)
        if again is not None and "Idempotent-Replayed" in again.headers:
            if first is None or again.content != first.content:
                self.tally.surprise("an answer was replayed that was never given")
            other = body | {"prompt": "something else"}
            await self._ask("another by key", "POST", GENERATIONS, {422, 503}, json=other, headers=headers)

    async def stream(self) -> None:
        body, allowed = self._wish()
        body |= {"stream": True, "partial_images": self.chance.randrange(4)}
        async with self._streaming("stream", body, allowed) as response:
            if response.status_code != 200:
                return
            events = await _events(response)
            finished = [found for name, found in events if name == "image_generation.completed"]
            failed = [found for name, found in events if name == "error"]
            if not failed and len(finished) != body["n"] * len(body.get("styles_each", [None])):
                self.tally.surprise(f"a stream ended after {[name for name, _ in events]}")
            if failed:
                await self.tally.count("stream, failed", failed[0]["error"]["code"])
            for found in finished:
                self._see(body, found["seed"], found.get("style"), found["b64_json"])

    async def stream_and_leave(self) -> None:
        body, allowed = self._wish()
        body |= {"stream": True, "partial_images": 3}
        async with self._streaming("stream, left", body, allowed) as response:
            num_lines = self.chance.randrange(6)
            async for _ in response.aiter_lines():
                num_lines -= 1
                if num_lines < 0:
                    break

    # Styles

    async def upload(self) -> None:
        upload = self.promises.new_upload()
        self._promised(upload, await self._post(upload, "upload", {201, 429, 503}))

    async def upload_by_key(self) -> None:
        """As clients do that want to be sure: again until there is an answer, with the same key."""
        upload = self.promises.new_upload()
        headers = {"Idempotency-Key": f"k{self.chance.getrandbits(64):x}"}
        for _ in range(10):
            answer = await self._post(upload, "upload by key", {200, 201, 409, 429, 503}, headers=headers)
            if answer is not None and answer.is_success:
                self._promised(upload, answer)
                return

    async def upload_and_leave(self) -> None:
        await self._post(self.promises.new_upload(), "upload, left", {201, 429, 503}, leaves=True)

    async def upload_what_others_do(self) -> None:
        upload = upload_of(self.chance.randrange(NUM_COMMON))
        answer = await self._post(upload, "upload, common", {200, 201, 429, 503})
        if answer is not None and answer.is_success:
            self._made_by_many(answer, upload)

    async def break_off(self) -> None:
        """Say that a body comes, send a part of it, and hang up."""
        path, kind = self.chance.choice([(GENERATIONS, JSON), ("/v1/styles", MULTIPART)])
        url = httpx.URL(self.url)
        _, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind['Content-Type']}\r\n"
        body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + bytes(2**20 + 9)
        writer.write(f"{head}Content-Length: {2**22}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()
        await self.tally.count("broken off", "left")

    async def style_from_words(self) -> None:
        body = {
            "text": self.chance.choice(["woodblock", "gouache", "neon"]),
            "seed": self.chance.randrange(3),
        }
        answer = await self._ask("words", "POST", "/v1/styles", {200, 201, 429, 503}, json=body)
        if answer is not None and answer.is_success:
            self._made_by_many(answer)

    async def style_from_code(self) -> None:
        if (style := self.promises.any_style(self.chance)) is not None:
            body = {"code": style["code"]}
            answer = await self._ask("code", "POST", "/v1/styles", {200, 201, 503}, json=body)
            if answer is not None and answer.is_success:
                self._made_by_many(answer)

    async def look(self) -> None:
        styles = await self._ask(
            "list", "GET", "/v1/styles", {200, 503}, params={"limit": self.chance.randint(1, 100)}
        )
        if styles is not None and styles.status_code == 200 and styles.json()["has_more"]:
            # 400: deleted meanwhile
            await self._ask(
                "list on", "GET", "/v1/styles", {200, 400, 503}, params={"after": styles.json()["last_id"]}
            )
        if self.own:
            style_id, upload = self.chance.choice(self.own)
            found = await self._ask("look", "GET", f"/v1/styles/{style_id}", {200, 503})
            if found is not None and found.is_success and found.json() != self.promises.kept[style_id]:
                self.tally.surprise(f"{found.json()} was {self.promises.kept[style_id]}")
            content = await self._ask("look at picture", "GET", f"/v1/styles/{style_id}/image", {200, 503})
            if content is not None and content.is_success and content.content != upload.content:
                self.tally.surprise(f"the picture of {style_id} has changed")

    async def rename(self) -> None:
        if self.own:
            style_id, upload = self.own.pop(self.chance.randrange(len(self.own)))
            name = f"name {self.chance.randrange(10)}"
            answer = await self._ask(
                "rename", "PATCH", f"/v1/styles/{style_id}", {200, 503}, json={"name": name}
            )
            if answer is not None and answer.is_success:
                if answer.json() != self.promises.kept[style_id] | {"name": name}:
                    self.tally.surprise(f"renaming answered {answer.json()}")
                self.promises.keep(answer.json())
                self.own.append((style_id, upload))
            else:  # renamed or not: only its picture is still sure
                self.promises.kept.pop(style_id)

    async def delete(self) -> None:
        if self.own:
            style_id, _ = self.own.pop(self.chance.randrange(len(self.own)))
            self.promises.doubt(style_id)
            first = await self._ask("delete", "DELETE", f"/v1/styles/{style_id}", {200, 503})
            if first is not None and first.is_success:
                await self._ask("delete again", "DELETE", f"/v1/styles/{style_id}", {404, 503})
                self.promises.gone.add(style_id)

    # All the rest

    async def err(self) -> None:
        status, method, path, more = self.chance.choice(WRONG)
        needs_place = status in PICTURE_STATUSES and "files" in more
        await self._ask("wrong", method, path, {status, 429} if needs_place else {status}, **more)

    async def probe(self) -> None:
        await self._ask("probe", "GET", self.chance.choice(["/livez", "/readyz", "/metrics"]), {200})

    def _wish(self, *, is_single: bool = False) -> tuple[dict[str, Any], set[int]]:
        """A generation request, and how it may be answered. Only styles know of the store."""
        chance = self.chance
        body: dict[str, Any] = {
            "prompt": f"a {chance.choice(['red', 'blue'])} {chance.choice(['star', 'mug', 'cat'])}",
            "seed": chance.randrange(4),
            "size": chance.choice(["64x64", "64x64", "96x64"]),
            "n": 1 if is_single else chance.choice([1, 1, 1, 2, 4]),
            "priority": chance.choice(["normal", "normal", "low"]),
        }
        if chance.random() < 0.3:
            body["output_format"] = chance.choice(["jpeg", "webp"])
        styles = [style for _ in range(2) if (style := self.promises.any_style(chance)) is not None]
        if len(styles) < 2 or chance.random() < 0.4:
            return body, {200, 429}
        one, other = styles
        kind = chance.choice(["id", "id", "id", "code", "mixture", "each"])
        if kind == "id":
            body["style"] = {"id": one["id"], "strength": chance.choice([0, 0.5, 1])}
        elif kind == "code":
            body["style"] = one["code"]
            return body, {200, 429}
        elif kind == "mixture":
            body["styles"] = [{"id": one["id"], "weight": 2.0}, {"id": other["id"], "weight": -0.5}]
        elif not is_single:
            body |= {"styles_each": [one["id"], None], "n": 1}
        return body, {200, 429, 404, 503}  # 404: deleted meanwhile

    def _compare(self, body: dict[str, Any], answer: httpx.Response | None) -> None:
        """An image depends on what was wished for alone, not on the company it was drawn in."""
        if answer is not None and answer.status_code == 200:
            for image in answer.json()["data"]:
                self._see(body, image["seed"], image.get("style"), image["b64_json"])

    def _see(self, body: dict[str, Any], seed: int, style: object, image: str) -> None:
        shown = style if "styles_each" in body else None
        if not self.promises.is_as_before(body, seed, shown, image):
            self.tally.surprise(f"{body} with seed {seed} was drawn differently before")

    def _promised(self, upload: Upload, answer: httpx.Response | None) -> None:
        if answer is not None and answer.is_success:
            self.promises.keep(answer.json(), upload)
            self.own.append((answer.json()["id"], upload))

    def _made_by_many(self, answer: httpx.Response, upload: Upload | None = None) -> None:
        style = answer.json()
        self.promises.num_made[style["id"]] += answer.status_code == 201
        if style != self.promises.kept.setdefault(style["id"], style):
            self.tally.surprise(f"{style} was {self.promises.kept[style['id']]}")
        if upload is not None:
            self.promises.contents[style["id"]] = upload.content

    async def _post(
        self, upload: Upload, kind: str, allowed: set[int], *, leaves: bool = False, **more: Any
    ) -> httpx.Response | None:
        files = {"image": ("style.png", upload.file, "image/png")}
        return await self._ask(kind, "POST", "/v1/styles", allowed, leaves=leaves, files=files, **more)

    async def _ask(
        self, kind: str, method: str, path: str, allowed: set[int], *, leaves: bool = False, **more: Any
    ) -> httpx.Response | None:
        """The answer, which must be one of those allowed; None when there is none."""
        patience = self.chance.expovariate(8) if leaves else PATIENCE_SECONDS
        try:
            async with asyncio.timeout(patience):
                response = await self.http.request(method, path, **more)
        except (TimeoutError, httpx.TransportError) as error:
            await self.tally.count(kind, "left" if leaves else "none")
            if not leaves:
                self.tally.surprise(f"{kind}: {method} {path} ended in {error!r}")
            return None
        await self.tally.count(kind, response.status_code)
        self._check(kind, response, allowed)
        if response.status_code in (429, 503) and self.chance.random() < 0.5:
            await asyncio.sleep(min(MAX_PAUSE_SECONDS, float(response.headers["Retry-After"])))
        return response

    def _check(self, kind: str, response: httpx.Response, allowed: set[int]) -> None:
        if response.status_code not in allowed:
            self.tally.surprise(f"{kind}: {response.status_code} {response.text[:300]}")
        if response.status_code in (429, 503) and "Retry-After" not in response.headers:
            self.tally.surprise(f"{kind}: {response.status_code} without Retry-After")

    def _streaming(self, kind: str, body: dict[str, Any], allowed: set[int]) -> _Streaming:
        return _Streaming(self, kind, body, allowed)


class _Streaming:
    """A streamed response, whose status is counted and checked; hanging up is leaving the context."""

    def __init__(self, client: SoakClient, kind: str, body: dict[str, Any], allowed: set[int]) -> None:
        self._client, self._kind, self._allowed = client, kind, allowed
        self._streamed = client.http.stream("POST", GENERATIONS, json=body)

    async def __aenter__(self) -> httpx.Response:
        response = await self._streamed.__aenter__()
        if response.status_code != 200:
            await response.aread()
            self._client._check(self._kind, response, self._allowed)
        await self._client.tally.count(self._kind, response.status_code)
        return response

    async def __aexit__(self, *failure: Any) -> None:
        await self._streamed.__aexit__(*failure)


async def _events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of each server-sent event, until the stream ends."""
    events, name = [], ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            events.append((name, json.loads(value)))
    return events
