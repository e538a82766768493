"""The requests that compare_builds sends to a build, and the comparable part of each response."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.pictures import gradient, saved
from tests.support.uploads import picture

# What the servers run with, so that small requests reach the bounds.
BOUNDS = {
    "ATELIER_MAX_QUEUED": "12",
    "ATELIER_MAX_UPLOAD_BYTES": "262144",
    "ATELIER_MAX_UPLOAD_PIXELS": "1000000",
}
PATIENCE_SECONDS = 300
GENERATIONS, STYLES = "/v1/images/generations", "/v1/styles"
EXACT_HEADERS = (
    "content-type", "location", "allow", "x-seed", "x-quality", "x-content-type-options", "cache-control",
    "x-accel-buffering", "idempotent-replayed", "www-authenticate", "x-ratelimit-limit-requests",
    "x-ratelimit-limit-images", "x-ratelimit-remaining-images",
)  # fmt: skip
# Their values are times, counts of a sliding window or texts.
PRESENT_HEADERS = ("retry-after", "x-request-id", "x-warnings", "x-ratelimit-reset-images")
TIMES = ("created", "created_at")
TEXTS_IN_DOCUMENT = ("title", "description", "summary", "example", "examples", "operationId", "tags", "info")


@dataclass(frozen=True, slots=True)
class Text:
    """Words for a person, which builds may differ in."""

    words: str


@dataclass(frozen=True, slots=True)
class ImageFile:
    content: bytes


@dataclass(frozen=True, slots=True)
class Summary:
    """What two builds must agree on."""

    status: int
    headers: dict[str, Any]
    body: Any


def summary_of(response: httpx.Response) -> Summary:
    headers: dict[str, Any] = {name: response.headers.get(name) for name in EXACT_HEADERS}
    headers |= {name: name in response.headers for name in PRESENT_HEADERS}
    headers["server-timing"] = sorted(
        entry.partition(";")[0].strip() for entry in response.headers.get("server-timing", "").split(",")
    )
    return Summary(response.status_code, headers, body_of(response))


def body_of(response: httpx.Response) -> Any:
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if media_type == "application/json":
        return comparable(response.json())
    if media_type == "text/event-stream":
        return events_of(response.text)
    if media_type.startswith("image/"):
        return ImageFile(response.content)
    return Text(response.text)


def comparable(value: Any, name: str = "") -> Any:
    """JSON with texts marked, image files decoded and times reduced to their type."""
    if name in ("message", "warnings") and value is not None:
        return Text(json.dumps(value))
    if name in TIMES and value is not None:
        return type(value).__name__
    if name == "b64_json":
        return ImageFile(base64.b64decode(value))
    if isinstance(value, dict):
        return {key: comparable(entry, key) for key, entry in value.items()}
    return [comparable(entry) for entry in value] if isinstance(value, list) else value


def events_of(text: str) -> list[Any]:
    """Server-sent events, image by image: how the images of one stream interleave is a matter of timing."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append({"event": fields["event"], **comparable(json.loads(fields["data"]))})
    return sorted(events, key=lambda event: (event.get("image_index", 0), event.get("step", 0)))


def document_of(document: dict[str, Any]) -> Any:
    """An OpenAPI document with its references resolved and without its texts and the names of its schemas."""

    def resolved(node: Any, names: tuple[str, ...] = ()) -> Any:
        if isinstance(node, list):
            return [resolved(entry, names) for entry in node]
        if not isinstance(node, dict):
            return node
        if isinstance(reference := node.get("$ref"), str):
            kind, name = reference.rsplit("/", 2)[1:]
            return resolved(document["components"][kind][name], names)
        is_of_fields = bool(names) and names[-1] == "properties"  # a field may be called "title"
        return {
            name: resolved(entry, (*names, name))
            for name, entry in node.items()
            if is_of_fields or name not in TEXTS_IN_DOCUMENT
        }

    return resolved(document["paths"])


def foreign(code: str) -> str:
    """A sound style code of a model with another fingerprint."""
    text = code.removeprefix("sc1_")
    content = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[:-4])
    content[0] ^= 0xFF
    sealed = bytes(content) + struct.pack(">I", zlib.crc32(content))
    return "sc1_" + base64.urlsafe_b64encode(sealed).decode().rstrip("=")


@dataclass
class Session:
    """Sends all requests to one server; `results` has the comparable part of each response by its name."""

    client: httpx.Client
    keys: dict[str, str]  # API keys by name: shop, other (of another tenant), slow (two images a minute)
    results: dict[str, Any] = field(default_factory=dict)

    def send(self, name: str, method: str, path: str, *, key: str = "shop", **options: Any) -> httpx.Response:
        assert name not in self.results, name
        headers = {"Authorization": f"Bearer {self.keys[key]}"} if key else {}
        headers |= options.pop("headers", {})
        response = self.client.request(method, path, headers=headers, **options)
        self.results[name] = summary_of(response)
        return response

    def draw(self, name: str, *, accept: str = "application/json", **body: Any) -> httpx.Response:
        body = {"prompt": "a red star", "seed": 7, **body}
        return self.send(name, "POST", GENERATIONS, json=body, headers={"Accept": accept})

    def upload(self, title: str, *contents: bytes, key: str = "shop", **fields: str) -> httpx.Response:
        files = [
            ("image", (f"{number}.png", content, "image/png")) for number, content in enumerate(contents)
        ]
        return self.send(title, "POST", STYLES, files=files, data=fields, key=key)

    def run(self) -> dict[str, Any]:
        styles = self.create_styles()
        self.draw_images(styles)
        self.stream_images(styles)
        self.repeat_requests(styles)
        self.refuse_images(styles)
        self.refuse_styles()
        self.refuse_other_requests(styles)
        self.change_styles(styles)
        self.read_service()
        self.draw_together(styles)
        return self.results

    def create_styles(self) -> dict[str, str]:
        """One style of each source; their IDs by name, and a style code."""
        metadata = json.dumps({"shelf": "3"})
        first = self.upload("style of one picture", picture(1), name="blocks", metadata=metadata).json()
        ids = {"one": first["id"], "code": first["code"]}
        ids["jpeg"] = self.upload("style of a JPEG", picture(2, "JPEG", (200, 120))).json()["id"]
        ids["smooth"] = self.upload("style of a WebP", saved(gradient(), "WEBP", lossless=True)).json()["id"]
        ids["several"] = self.upload("style of three pictures", picture(3), picture(4), picture(5)).json()[
            "id"
        ]
        self.upload("the same pictures in another order", picture(5), picture(3), picture(4))
        text = {"text": "neon style", "seed": 3, "name": "neon"}
        ids["text"] = self.send("style of text", "POST", STYLES, json=text).json()["id"]
        ids["coded"] = self.send("style of a code", "POST", STYLES, json={"code": ids["code"]}).json()["id"]
        self.upload("the same picture again", picture(1))
        self.upload("the same picture of another tenant", picture(1), key="other")
        return ids

    def draw_images(self, styles: dict[str, str]) -> None:
        one, several, text, code = (styles[name] for name in ("one", "several", "text", "code"))
        self.draw("plain")
        self.draw("plain, two images", n=2)
        for name in ("one", "jpeg", "smooth", "several", "text", "coded", "code"):
            self.draw(f"in the style {name}", prompt="a house", style=styles[name])
        for strength in (0, 0.4, 1.5):
            self.draw(f"strength {strength}", style={"id": one, "strength": strength})
        for alpha in (0, 0.05, 2):
            self.draw(f"alpha {alpha}", style={"id": several, "alpha": alpha})
        mixture = [{"id": one, "weight": 3}, {"id": several, "weight": 1}]
        self.draw("mixture", styles=mixture, strength=0.8, alpha=0.3)
        against = [{"id": one, "weight": 2}, {"id": text, "weight": -0.5}, {"id": code, "weight": 0.5}]
        self.draw("mixture with a negative weight", styles=against, n=2)
        self.draw("several styles side by side", styles_each=[one, None, {"id": text, "strength": 0.5}], n=2)
        self.draw("guidance", guidance=3, style=one)
        self.draw("no guidance", guidance=0)
        self.draw("negative prompt", negative_prompt="blue", guidance=5, style=text)
        for quality in ("auto", "high", "medium", "low"):
            self.draw(f"quality {quality}", quality=quality, style=one, n=2)
        self.draw("named size and model", size="64x64", model="nano", priority="low", user="me")
        self.draw("unknown words", prompt="a zeppelin of qwertz")
        self.draw("long prompt", prompt="a red star on a blue background, " * 30)
        for output in ("jpeg", "webp"):
            self.draw(f"{output} in JSON", output_format=output, output_compression=60, style=one)
        for accept in ("image/png", "image/jpeg", "image/webp", "image/webp;q=0.5, image/png;q=0.9"):
            self.draw(f"raw {accept}", accept=accept, style=several)
        self.draw("raw with a warning", accept="image/png", prompt="a zeppelin")

    def stream_images(self, styles: dict[str, str]) -> None:
        self.draw("stream", stream=True)
        self.draw("stream with previews", stream=True, partial_images=3, style=styles["one"])
        self.draw("stream of two", stream=True, partial_images=2, n=2, style=styles["several"], seed=11)
        self.draw("stream, low quality", stream=True, partial_images=3, quality="low", output_format="webp")
        mixture = [{"id": styles["one"]}, {"id": styles["text"]}]
        self.draw("stream of a mixture", stream=True, partial_images=1, styles=mixture)

    def repeat_requests(self, styles: dict[str, str]) -> None:
        body = {"prompt": "a heart", "seed": 5, "style": styles["one"]}
        for name, changed in (("first", {}), ("replayed", {}), ("reused with another body", {"seed": 6})):
            self.send(
                f"idempotency key, {name}", "POST", GENERATIONS, json=body | changed,
                headers={"Idempotency-Key": "heart-1"},
            )  # fmt: skip
        for name in ("first", "replayed"):
            self.send(
                f"idempotency key of a style, {name}", "POST", STYLES, json={"text": "watercolour"},
                headers={"Idempotency-Key": "style-1"},
            )  # fmt: skip
        headers = {"Idempotency-Key": "two words"}
        self.send("bad idempotency key", "POST", GENERATIONS, json=body, headers=headers)

    def refuse_images(self, styles: dict[str, str]) -> None:
        one, code = styles["one"], styles["code"]
        absent = "sty_" + "a" * len(one.removeprefix("sty_"))
        bodies: dict[str, dict[str, Any]] = {
            "unknown field": {"promt": "a star"},
            "unknown field of a style": {"style": {"id": one, "strenght": 1}},
            "wrong type": {"n": "2"},
            "prompt of another type": {"prompt": 7},
            "style of another type": {"style": 7},
            "blank prompt": {"prompt": "   "},
            "prompt too long": {"prompt": "a star " * 1000},
            "negative prompt too long": {"negative_prompt": "blue " * 1000},
            "n of 0": {"n": 0},
            "n of 11": {"n": 11},
            "too many images of several styles": {"styles_each": [one, None], "n": 6},
            "style and styles_each": {"style": one, "styles_each": [one]},
            "style and styles": {"style": one, "styles": [{"id": one}]},
            "strength without styles": {"strength": 0.5},
            "weights that sum to 0": {"styles": [{"id": one, "weight": 1}, {"id": code, "weight": -1}]},
            "strength out of range": {"style": {"id": one, "strength": 2}},
            "unknown style": {"style": absent},
            "not a style ID": {"style": "sty_nothing"},
            "unknown style in a mixture": {"styles": [{"id": one}, {"id": absent}]},
            "unknown style of several": {"styles_each": [one, absent]},
            "foreign code": {"style": foreign(code)},
            "damaged code": {"style": code[:-6] + "AAAAAA"},
            "code of another version": {"style": "sc9_" + code[4:]},
            "bad size": {"size": "65x64"},
            "unknown model": {"model": "dall-e-3"},
            "URL asked for": {"response_format": "url"},
            "unknown format": {"output_format": "gif"},
            "unknown quality": {"quality": "best"},
            "compression of a PNG": {"output_format": "png", "output_compression": 50},
            "partial images without a stream": {"partial_images": 2},
            "seed out of range": {"seed": -1},
            "more images of low priority than may wait": {"n": 10, "priority": "low"},
        }
        for name, body in bodies.items():
            self.draw(name, **body)
        self.send("no prompt", "POST", GENERATIONS, json={"n": 1})
        self.draw("raw image of two", accept="image/png", n=2)
        self.draw("raw image of a stream", accept="image/png", stream=True)
        self.draw("Accept against output_format", accept="image/png", output_format="webp")
        self.draw("Accept of no known type", accept="text/html")

    def refuse_styles(self) -> None:
        self.upload("not a picture", b"plain text")
        self.upload("damaged picture", picture(1)[:200])
        self.upload("picture too small", picture(1, size=(8, 8)))
        self.upload("picture of too many pixels", saved(gradient(1200, 1200), "WEBP", quality=10))
        self.upload("upload too large", bytes(400_000))
        self.upload("too many pictures", *(picture(seed) for seed in range(11)))
        self.upload("unknown form field", picture(1), colour="red")
        self.upload("blank name", picture(1), name=" ")
        self.upload("bad metadata", picture(1), metadata="[1]")
        self.send("form without a picture", "POST", STYLES, files={"name": (None, "x")})
        bodies: dict[str, Any] = {
            "text and code": {"text": "neon", "code": "sc1_AA"},
            "neither text nor code": {},
            "unknown field of a text style": {"text": "neon", "colour": 1},
            "blank text": {"text": " "},
            "text too long": {"text": "neon " * 1000},
            "code that is none": {"code": "neon"},
            "name too long": {"text": "neon", "name": "n" * 300},
            "a list": [1],
        }
        for name, body in bodies.items():
            self.send(f"style body: {name}", "POST", STYLES, json=body)

    def refuse_other_requests(self, styles: dict[str, str]) -> None:
        as_json = {"Content-Type": "application/json"}
        body = {"prompt": "a star", "seed": 1}
        self.send("invalid JSON", "POST", GENERATIONS, content=b"{", headers=as_json)
        self.send("JSON list", "POST", GENERATIONS, content=b"[]", headers=as_json)
        self.send("JSON not in UTF-8", "POST", STYLES, content=b'{"text": "\xff"}', headers=as_json)
        self.send("JSON too large", "POST", GENERATIONS, content=b" " * 1_200_000, headers=as_json)
        for path in (GENERATIONS, STYLES):
            headers = {"Content-Type": "text/plain"}
            self.send(f"wrong media type for {path}", "POST", path, content=b"a star", headers=headers)
            self.send(f"no media type for {path}", "POST", path, content=b"a star")
        self.send("unsupported method", "PUT", GENERATIONS, json=body)
        self.send("unsupported method of a style", "POST", f"{STYLES}/{styles['one']}", json=body)
        self.send("no route", "GET", "/v1/images/edits/none")
        self.send("no route outside of /v1", "GET", "/nothing")
        for seconds in ("soon", "0", "-1", "1e9", "0.001"):
            headers = {"X-Request-Timeout": seconds}
            self.send(f"timeout of {seconds}", "POST", GENERATIONS, json=body | {"n": 10}, headers=headers)
        self.send("unknown model by name", "GET", "/v1/models/dall-e-3")
        for key, name in (("", "no API key"), ("wrong", "wrong API key")):
            self.send(name, "POST", GENERATIONS, json=body, key=key)
        self.send("style of another tenant", "GET", f"{STYLES}/{styles['one']}", key="other")
        for name, num_images in (
            ("more images than the rate", 3),
            ("within the rate", 2),
            ("over the rate", 1),
        ):
            self.send(name, "POST", GENERATIONS, json=body | {"n": num_images}, key="slow")

    def change_styles(self, styles: dict[str, str]) -> None:
        one, absent = f"{STYLES}/{styles['one']}", f"{STYLES}/sty_{'a' * 36}"
        self.send("list", "GET", STYLES)
        self.send("list, oldest first", "GET", STYLES, params={"order": "asc", "limit": 2})
        self.send("list after", "GET", STYLES, params={"after": styles["jpeg"], "order": "asc"})
        for name, params in {
            "limit": {"limit": 0},
            "order": {"order": "up"},
            "after": {"after": "x"},
        }.items():
            self.send(f"list with a bad {name}", "GET", STYLES, params=params)
        self.send("get", "GET", one)
        self.send("get by code", "GET", f"{STYLES}/{styles['code']}")
        self.send("get an unknown style", "GET", absent)
        self.send("image of a style", "GET", f"{one}/image")
        self.send(
            "second image of a style", "GET", f"{STYLES}/{styles['several']}/image", params={"index": 1}
        )
        self.send("image that is not there", "GET", f"{one}/image", params={"index": 1})
        self.send("image of a text style", "GET", f"{STYLES}/{styles['text']}/image")
        self.send("rename", "PATCH", one, json={"name": "reeds", "metadata": {"shelf": "4"}})
        self.send("remove the name", "PATCH", one, json={"name": None})
        self.send("change an unknown field", "PATCH", one, json={"colour": "red"})
        self.send("change an unknown style", "PATCH", absent, json={"name": "x"})
        self.send("change a code", "PATCH", f"{STYLES}/{styles['code']}", json={"name": "x"})
        self.send("delete", "DELETE", f"{STYLES}/{styles['jpeg']}")
        self.send("delete again", "DELETE", f"{STYLES}/{styles['jpeg']}")
        self.draw("in a deleted style", style=styles["jpeg"])

    def read_service(self) -> None:
        self.send("models", "GET", "/v1/models")
        self.send("model", "GET", "/v1/models/nano")
        for path in ("/livez", "/readyz", "/version", "/", "/docs"):
            self.send(path, "GET", path, key="", headers={"X-Request-ID": "mine"})
        self.results["OpenAPI document"] = document_of(self.client.get("/openapi.json").json())
        metrics = self.client.get("/metrics").text
        self.results["metrics"] = dict(samples_of(metrics))

    def draw_together(self, styles: dict[str, str]) -> None:
        """Concurrent requests: which of them share a batch differs from run to run, and must not matter."""
        bodies: list[dict[str, Any]] = [
            {"prompt": "a cat", "style": styles["one"]},
            {"prompt": "a cat", "style": styles["several"]},
            {"prompt": "a cat", "quality": "low"},
            {"prompt": "a tree", "style": {"id": styles["text"], "strength": 0.6}, "seed": 8},
            {"prompt": "a tree", "guidance": 2},
            {"prompt": "a mug", "negative_prompt": "green", "style": styles["code"]},
            {"prompt": "a fish", "stream": True, "partial_images": 2},
            {"prompt": "a car", "priority": "low"},
        ]
        tasks: list[Callable[[], Any]] = [
            lambda number=number, body=body: self.draw(f"together {number}", **body)  # type: ignore[misc]
            for number, body in enumerate(bodies)
        ]
        with ThreadPoolExecutor(len(tasks)) as pool:
            list(pool.map(lambda task: task(), tasks))
        many = {"prompt": "a star", "n": 10, "seed": 1}
        self.results["more than may wait"] = self.outcomes([many] * 6, [{}] * 6)
        self.results["one idempotency key twice at once"] = self.outcomes(
            [many] * 2, [{"Idempotency-Key": "at-once"}] * 2
        )

    def outcomes(self, bodies: list[dict[str, Any]], headers: list[dict[str, str]]) -> list[str]:
        """The different statuses, codes and params of requests sent at once: how many get which is chance."""
        authorization = {"Authorization": f"Bearer {self.keys['shop']}"}

        def outcome(body: dict[str, Any], of_request: dict[str, str]) -> str:
            response = self.client.post(GENERATIONS, json=body, headers=authorization | of_request)
            error = response.json().get("error", {})
            return f"{response.status_code} {error.get('code')} {error.get('param')} {error.get('type')}"

        with ThreadPoolExecutor(len(bodies)) as pool:
            return sorted(set(pool.map(outcome, bodies, headers)))


def samples_of(text: str) -> Iterator[tuple[str, Any]]:
    """Names and labels of our metrics; of the counters that time has no part in, their values."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name.startswith("atelier_") else ():
            if sample.name.endswith("_created"):
                continue
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            is_counted = family.type == "counter" and "content_paths" not in family.name
            yield f"{sample.name}{{{labels}}}", sample.value if is_counted else None
