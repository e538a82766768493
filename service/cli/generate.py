"""`atelier generate`: draw, or edit a picture, with a running service."""

from __future__ import annotations

import json as json_format
import re
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.connection import AsJson, Url, connect
from service.cli.progress import steps
from service.cli.terminal_pictures import show_picture

Event = dict[str, Any]  # of the API, `b64_json` and all
SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
MAX_NAME_CHARS = 40  # of a prompt in the name of a file
NUM_PREVIEWS = 3  # the service's bound

Styles = Annotated[
    list[str] | None,
    typer.Option("--style", "-s", help="A style ID or style code. Repeat it for images in each of several."),
]
NumImages = Annotated[int, typer.Option("-n", min=1, max=10, help="Images, in each style; seeds count up.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for the images; or, for one image, the file to write.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Same seed, same image; chosen by default.")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT; the model's own by default.")]
Strength = Annotated[float | None, typer.Option(help="Amount of style: 0 is none, 1 the default.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What to avoid.")]
Guidance = Annotated[float | None, typer.Option(help="Weight of the prompt; the model's own by default.")]
Quality = Annotated[str | None, typer.Option(help="high, or faster: medium or low.")]
Format = Annotated[str | None, typer.Option(help="png, jpeg or webp; png by default.")]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        "-i",
        exists=True,
        dir_okay=False,
        help="A picture to restyle, or to draw the prompt over. Repeat it for pictures that are its style.",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="A PNG of the picture's size, transparent where the picture may change.",
    ),
]
Structure = Annotated[
    float | None, typer.Option(help="How much of the picture stays, 0 to 1; 0.75 by default in a style.")
]
Stream = Annotated[
    bool, typer.Option("--stream", help="Show previews while the images are drawn; with --json, each event.")
]


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help='What to draw: "a penguin". May be left out with --image.')
    ] = None,
    style: Styles = None,
    image: Images = None,
    mask: Mask = None,
    structure: Structure = None,
    n: NumImages = 1,
    out: Out = Path("."),
    seed: Seed = None,
    size: Size = None,
    strength: Strength = None,
    negative_prompt: NegativePrompt = None,
    guidance: Guidance = None,
    quality: Quality = None,
    format: Format = None,
    stream: Stream = False,
    json: AsJson = False,
    url: Url = None,
) -> None:
    """Draw images, or edit a picture, with a running service, save them, and print where they are."""
    _check_what_to_draw(prompt, image, mask, structure)
    is_file = out.suffix.lower() in SUFFIXES and not out.is_dir()
    if is_file and n * len(style or [None]) > 1:
        raise typer.BadParameter(f"{out} is one file: name a folder for several images.", param_hint="--out")
    styles = [name if strength is None else {"id": name, "strength": strength} for name in style or ()]
    fields = {
        "prompt": prompt,
        "image": [_encoded(path) for path in image] if image else None,
        "mask": _encoded(mask) if mask else None,
        "structure": structure,
        "n": n,
        "size": size,
        "style": styles[0] if len(styles) == 1 else None,
        "styles_each": styles if len(styles) > 1 else None,
        "seed": seed,
        "negative_prompt": negative_prompt,
        "guidance": guidance,
        "quality": quality,
        "output_format": format or (SUFFIXES[out.suffix.lower()] if is_file else None),
        "partial_images": NUM_PREVIEWS if stream or sys.stderr.isatty() else None,
    }
    body = {name: value for name, value in fields.items() if value is not None}
    with connect(url) as service:
        path = out if is_file else out / _name(prompt or (image[0].stem if image else ""))
        bar = nullcontext(_no_bar) if stream else steps("drawing", n * max(1, len(styles)))
        _draw(service.events(body), path, bar, stream=stream, as_json=json)


def _check_what_to_draw(
    prompt: str | None, image: list[Path] | None, mask: Path | None, structure: float | None
) -> None:
    if image:
        return
    if prompt is None:
        raise typer.BadParameter("Say what to draw, or give a picture to restyle with --image.")
    for option, value in (("--mask", mask), ("--structure", structure)):
        if value is not None:
            raise typer.BadParameter("It needs the picture, --image.", param_hint=option)


def _encoded(path: Path) -> str:
    return b64encode(path.read_bytes()).decode()


def _draw(
    events: Iterator[Event],
    path: Path,
    bar: AbstractContextManager[Callable[[int, int, int], None]],
    *,
    stream: bool,
    as_json: bool,
) -> None:
    """Save the images as they come, and report them: at the end, or with `stream` each event at once."""
    saved: list[Event] = []
    try:
        with bar as on_step:
            for event in events:
                on_step(event["image_index"], event["step"], event["num_steps"])
                if event["type"].endswith(".completed"):
                    event["path"] = str(_save(event, path))
                    saved.append(event)
                if stream:
                    _report(event, as_json)
    finally:  # what was drawn before a failure is there all the same
        if as_json and not stream:
            typer.echo(json_format.dumps({"images": [_without_file(event) for event in saved]}, indent=2))
        elif not as_json:
            for event in () if stream else saved:
                _report(event, as_json)
            for warning in dict.fromkeys(warning for event in saved for warning in event.get("warnings", ())):
                typer.echo(warning, err=True)


def _save(event: Event, path: Path) -> Path:
    """`path` itself when it names an image file; else a new file whose name begins so, with the seed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = b64decode(event["b64_json"])
        if path.suffix.lower() in SUFFIXES:
            path.write_bytes(content)
            return path
        style = event.get("style", {}).get("id", "")
        stem = "-".join(filter(None, (path.name, str(event["seed"]), style[-6:])))
        for number in count(1):
            name = stem if number == 1 else f"{stem}-{number}"
            file = path.with_name(f"{name}.{event['output_format']}")
            with suppress(FileExistsError), file.open("xb") as new:
                new.write(content)
                return file
    except OSError as error:
        raise ValueError(
            f"The image cannot be saved as {error.filename or path}: {error.strerror}."
        ) from error
    raise AssertionError("count() does not end")


def _report(event: Event, as_json: bool) -> None:
    if as_json:
        typer.echo(json_format.dumps(_without_file(event)))
        return
    show_picture(b64decode(event["b64_json"]))
    if "path" in event:
        typer.echo(event["path"])
    else:
        typer.echo(
            f"Image {event['image_index'] + 1}, step {event['step']} of {event['num_steps']}", err=True
        )


def _without_file(event: Event) -> Event:
    return {name: value for name, value in event.items() if name != "b64_json"}


def _no_bar(image: int, step: int, num_steps: int) -> None:
    pass


def _name(prompt: str) -> str:
    """How the files of a prompt begin: its words."""
    return "-".join(re.findall(r"\w+", prompt.lower()))[:MAX_NAME_CHARS].strip("-") or "image"
