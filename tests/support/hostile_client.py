"""HostileClient: one of many connections that send what no honest client sends, and hold what they can."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import httpx

from tests.support.soak import Tally

# A connection that the server has not ended by then hangs: its own limits in the soak are seconds.
PATIENCE_SECONDS = 60
GENERATION = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"prompt": "a star"}'
SOUND = GENERATION + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
UPLOAD = (
    b"POST /v1/styles HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Idempotency-Key: hostile-%d\r\nContent-Length: 4000000\r\n\r\n"
)
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + bytes(300_000)
# What is sent, and the statuses that may answer it; 0 is a connection closed without an answer.
REFUSED: dict[str, tuple[bytes, set[int]]] = {
    "long header": (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", {431}),
    "endless header": (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000, {431}),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00 hello\r\n\r\n", {400}),
    "two hosts": (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", {400}),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", {400}),
    "evil host": (SOUND.replace(b"localhost", b"evil.example"), {403}),
    "other site": (SOUND.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n", 1), {403}),
    "two lengths": (GENERATION + b"Content-Length: 20\r\nContent-Length: 4\r\n\r\n" + BODY, {400}),
    "length and chunks": (
        GENERATION + b"Content-Length: 20\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400},
    ),
    "chunks of nothing": (GENERATION + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {400}),
    "form in punycode": (
        b"POST /v1/styles HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n"
        b"Content-Type: multipart/form-data; boundary=x; charset=punycode\r\n\r\n0123456789", {415},
    ),
    "deep JSON": (GENERATION + b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000, {400}),
}  # fmt: skip


class HostileClient:
    """Does one thing after the other, chosen by a random generator of its own."""

    def __init__(self, number: int, url: str, tally: Tally) -> None:
        self.url, self.tally = httpx.URL(url), tally
        self.number, self.chance = number, random.Random(-number)
        self.http = httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS, verify=False)
        self.habits: tuple[Callable[[], Awaitable[None]], ...] = (
            self.be_refused, self.be_refused, self.stay_silent, self.send_half, self.trickle,
            self.leave_a_keyed_stream,
        )  # fmt: skip

    async def run(self, is_over: Callable[[], bool]) -> None:
        async with self.http:
            while not is_over():
                await self.chance.choice(self.habits)()

    async def be_refused(self) -> None:
        what, (request, statuses) = self.chance.choice(list(REFUSED.items()))
        # 408: on a busy machine this client itself may send later than the soak's short limits allow.
        await self._send_raw(what, [request], statuses | {408})

    async def stay_silent(self) -> None:
        """Nothing at all, or half a header."""
        start = self.chance.choice([b"", b"GET /livez HTTP/1.1\r\nHost: local"])
        await self._send_raw("silent", [start], {408})

    async def send_half(self) -> None:
        """Half a body that has a key, of which the service keeps what has come."""
        request = UPLOAD % self.chance.getrandbits(48) + PART
        await self._send_raw("half a body", [request], {408, 429})

    async def trickle(self) -> None:
        """A request in many small pieces, which is sound, and a second one behind it."""
        request = SOUND.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        pieces = [bytes([byte]) for byte in request]
        await self._send_raw("in pieces", pieces, {200, 429})

    async def leave_a_keyed_stream(self) -> None:
        """The answer of the key is the whole stream, however much of it the one who left had seen."""
        headers = {"Idempotency-Key": f"left-{self.chance.getrandbits(64):x}"}
        body = {"prompt": "a star", "seed": self.chance.randrange(4), "stream": True, "partial_images": 2}
        path, num_lines = "/v1/images/generations", self.chance.randrange(6)
        async with self.http.stream("POST", path, json=body, headers=headers) as response:
            await self.tally.count("stream by key, left", response.status_code)
            async for _ in response.aiter_lines():
                num_lines -= 1
                if num_lines < 0:
                    break
        again = await self.http.post(path, json=body, headers=headers)
        await self.tally.count("stream by key, again", again.status_code)
        ends = ("event: image_generation.completed", "event: error")
        if again.status_code == 200 and not any(end in again.text for end in ends):
            self.tally.surprise(f"a stream was replayed as {again.text[:200]!r}")
        elif again.status_code not in (200, 409, 429, 503):
            self.tally.surprise(f"a stream asked for again: {again.status_code} {again.text[:200]}")

    async def _send_raw(self, what: str, pieces: list[bytes], statuses: set[int]) -> None:
        """All pieces, then read until the server closes, or the first answer."""
        status = 0
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await asyncio.open_connection(self.url.host, self.url.port)
                try:
                    for piece in pieces:
                        writer.write(piece)
                        await writer.drain()
                    line = await reader.readline()
                    status = int(line.split()[1]) if line else 0
                finally:
                    writer.close()
        except ConnectionError:
            pass  # closed while we were still sending; its answer may be lost with it
        except TimeoutError:
            self.tally.surprise(f"{what}: no end after {PATIENCE_SECONDS} s")
        await self.tally.count(what, status or "closed")
        # Over the bound of connections any of them is refused with 503.
        if status not in statuses | {0, 503}:
            self.tally.surprise(f"{what}: {status}")
