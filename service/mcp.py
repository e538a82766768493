"""POST /mcp: the Model Context Protocol, a front door beside http/ with the same functions behind it.

Stateless: each call is a request of its own, which the middleware of http/ has authenticated and counted. A
tool's errors are the service's sentences, for the model to read.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from io import BytesIO
from typing import Any, Protocol

import structlog
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service import __version__
from service.access.api_key import MAX_STRENGTH
from service.application.caller import Caller
from service.application.extract_style import PictureSource, Styles, UploadedSource
from service.application.generate import FinishedImage, Images
from service.application.generation_request import (
    MAX_IMAGES,
    MAX_SEED,
    EditRequest,
    GenerationRequest,
    StyleMix,
    StyleTerm,
)
from service.application.uploads import UploadedFile
from service.errors import InvalidRequest, ServiceError
from service.media.images import OutputFormat
from service.stage_timer import RequestTrace
from service.storage.schema import MAX_PICTURES
from service.styles.record import MAX_NAME_CHARS, MAX_SUFFIX_CHARS, Style, StyleText

NUM_PREVIEWS = 3  # of each image, as progress
INSTRUCTIONS = (
    "Draws images from text, plain or in a style. create_style makes a style of pictures or of words and "
    "returns its ID; generate_image draws with it, as often as you like; edit_image redraws a picture in it."
)
log = structlog.stdlib.get_logger(__name__)
Context = ServerRequestContext[Any, Any]


class Drawing(Protocol):
    """What a service that is ready offers to the tools."""

    @property
    def images(self) -> Images: ...

    @property
    def styles(self) -> Styles: ...


class Arguments(BaseModel):
    """Of a tool: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CreateStyle(Arguments):
    """Create a style from pictures, from words or from a style code, and return its ID. The same source
    gives the same style.
    """

    images: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_PICTURES,
        description="Pictures, each a PNG, JPEG, WebP or still GIF in base64; several become one style, "
        "their mean.",
    )
    text: str | None = Field(default=None, description="Instead of images: words that describe the style.")
    code: str | None = Field(default=None, description="Instead of images: the code of a style.")
    name: str | None = Field(default=None, min_length=1, max_length=MAX_NAME_CHARS)
    prompt_suffix: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_SUFFIX_CHARS,
        description="Words that go to the end of each prompt that is drawn in the style.",
    )

    def source(self) -> UploadedSource:
        given = [value for value in (self.images, self.text, self.code) if value is not None]
        if len(given) != 1:
            raise InvalidRequest("Give one of images, text and code: a style is made of one of them.")
        if self.images is not None:
            return PictureSource(tuple(UploadedFile(BytesIO(_decoded(image))) for image in self.images))
        return StyleText(self.text, seed=0) if self.text is not None else str(self.code)


class ListStyles(Arguments):
    """List the styles, newest first, with their IDs and names."""

    limit: int = Field(default=20, ge=1, le=100)
    after: str | None = Field(default=None, description="The ID of the last style of the page before.")


class ImageArguments(Arguments):
    """What drawing and editing have in common."""

    style: str | None = Field(default=None, description="A style ID (sty_...) or a style code (sc1_...).")
    strength: float = Field(default=1.0, ge=0, le=MAX_STRENGTH, description="Amount of the style.")
    size: str = Field(default="auto", max_length=20, description="WIDTHxHEIGHT, or auto.")
    n: int = Field(default=1, ge=1, le=MAX_IMAGES, description="Number of images; image i has seed + i.")
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="The same seed, the same image.")
    negative_prompt: str = Field(default="", description="What to avoid.")
    output_format: OutputFormat = OutputFormat.PNG

    def request(
        self, prompt: str | None, edit: EditRequest | None, deadline: float | None, num_previews: int
    ) -> GenerationRequest:
        style = None if self.style is None else StyleMix((StyleTerm(self.style),), self.strength)
        return GenerationRequest(
            prompt=prompt,
            edit=edit,
            negative_prompt=self.negative_prompt,
            size=self.size,
            styles=None if style is None else (style,),
            num_images=self.n,
            num_previews=num_previews,
            seed=self.seed,
            output_format=self.output_format,
            deadline=deadline,
        )


class GenerateImage(ImageArguments):
    """Draw a prompt, plain or in a style, and return the image, its seed and its style."""

    prompt: str = Field(min_length=1, description="What to draw.")

    def to_request(self, deadline: float | None, num_previews: int) -> GenerationRequest:
        return self.request(self.prompt, None, deadline, num_previews)


class EditImage(ImageArguments):
    """Restyle a picture, draw a prompt over it, or draw inside a mask, and return the image."""

    image: str = Field(description="The picture: a PNG, JPEG, WebP or still GIF in base64.")
    prompt: str | None = Field(
        default=None, min_length=1, description="What to draw; may be left out where there is a style."
    )
    mask: str | None = Field(
        default=None, description="A PNG of its size in base64, transparent where the picture may change."
    )
    structure: float | None = Field(
        default=None, ge=0, le=1, description="How much of the picture stays; 0.75 by default in a style."
    )

    def to_request(self, deadline: float | None, num_previews: int) -> GenerationRequest:
        mask = None if self.mask is None else UploadedFile(BytesIO(_decoded(self.mask)))
        picture = UploadedFile(BytesIO(_decoded(self.image)))
        edit = EditRequest(picture=picture, mask=mask, structure=self.structure)
        return self.request(self.prompt, edit, deadline, num_previews)


TOOLS: dict[str, type[Arguments]] = {
    "create_style": CreateStyle,
    "list_styles": ListStyles,
    "generate_image": GenerateImage,
    "edit_image": EditImage,
}


def create_server(require: Callable[[], Drawing], max_body_bytes: int) -> Server[Any]:
    """The server, whose `session_manager` answers requests while its `run()` is entered.

    `require` returns the service, or raises NotReady.
    """

    async def call(context: Context, params: CallToolRequestParams) -> CallToolResult:
        try:
            return await _call(context, params, require())
        except ServiceError as error:
            return CallToolResult(content=[TextContent(type="text", text=error.message)], is_error=True)
        except Exception:  # the SDK would answer with the text of any error
            log.exception("tool_failed", tool=params.name)
            failed = "The service failed; its log says why."
            return CallToolResult(content=[TextContent(type="text", text=failed)], is_error=True)

    server: Server[Any] = Server(
        "atelier",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=_list_tools,
        on_call_tool=call,
    )
    server.streamable_http_app(  # for its session manager
        stateless_http=True,
        max_request_body_size=max_body_bytes,
        # Our own middleware checks Host and Origin, and knows the hosts that are allowed.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    return server


async def _list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
    tools = [
        Tool(
            name=name,
            description=" ".join((arguments.__doc__ or "").split()),
            input_schema=arguments.model_json_schema(),
        )
        for name, arguments in TOOLS.items()
    ]
    return ListToolsResult(tools=tools)


async def _call(context: Context, params: CallToolRequestParams, service: Drawing) -> CallToolResult:
    if params.name not in TOOLS:
        raise InvalidRequest(f"There is no tool {params.name[:60]}; there are {', '.join(TOOLS)}.")
    try:
        arguments = TOOLS[params.name].model_validate(params.arguments or {})
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()]
        raise InvalidRequest(f"These arguments of {params.name} are wrong. {'; '.join(mistakes)}.") from error
    state = _state_of(context)
    caller: Caller = state.caller
    if isinstance(arguments, CreateStyle):
        return await _create_style(arguments, service.styles.of(caller), state.trace)
    if isinstance(arguments, ListStyles):
        return await _list_styles(arguments, service.styles.of(caller))
    assert isinstance(arguments, GenerateImage | EditImage)
    return await _generate_image(arguments, context, service.images)


async def _create_style(arguments: CreateStyle, styles: Styles, trace: RequestTrace) -> CallToolResult:
    style, is_new = await styles.create(
        arguments.source(), trace, name=arguments.name, prompt_suffix=arguments.prompt_suffix
    )
    text = style.source_text
    warnings = [] if text is None else list(styles.warnings_of_text(text.text))
    return _result({**_summary(style), "is_new": is_new, "warnings": warnings})


async def _list_styles(arguments: ListStyles, styles: Styles) -> CallToolResult:
    page = await styles.store.list(limit=arguments.limit, after=arguments.after, order="desc")
    return _result({"styles": [_summary(style) for style in page.styles], "has_more": page.has_more})


async def _generate_image(
    arguments: GenerateImage | EditImage, context: Context, images: Images
) -> CallToolResult:
    """The images in their order, after a progress notification for each preview and each image."""
    state = _state_of(context)
    is_followed = "progress_token" in (context.meta or {})
    request = arguments.to_request(state.deadline, NUM_PREVIEWS if is_followed else 0)
    stream = await images.stream(request, state.caller, state.trace)
    steps_done = dict.fromkeys(range(arguments.n), 0)
    finished: dict[int, FinishedImage] = {}
    try:
        async for update in stream.updates():
            index = update.planned.index
            if isinstance(update, FinishedImage):
                finished[index] = update
                num_steps = steps_done[index] = len(update.drawing.timings.step_seconds)
            else:
                num_steps, steps_done[index] = update.preview.num_steps, update.preview.step
            await context.session.report_progress(
                sum(steps_done.values()),
                arguments.n * num_steps,
                f"image {index + 1} of {arguments.n}, step {steps_done[index]} of {num_steps}",
            )
    finally:
        stream.close()
    drawn = [finished[index] for index in sorted(finished)]
    files = [
        ImageContent(
            type="image",
            data=b64encode(image.file).decode(),
            mime_type=f"image/{image.planned.output_format.value}",
        )
        for image in drawn
    ]
    return _result(
        {"images": [_description(image) for image in drawn], "model": images.generator.name}, *files
    )


def _state_of(context: Context) -> Any:
    """What the middleware of http/ has found out about the request: its caller, trace and deadline."""
    assert context.request is not None  # as every message comes by HTTP
    return context.request.state


def _summary(style: Style) -> dict[str, Any]:
    return {
        "id": style.id,
        "name": style.name,
        "source": style.source,
        "created": style.created,
        "prompt_suffix": style.prompt_suffix,
    }


def _description(image: FinishedImage) -> dict[str, Any]:
    style = image.planned.style
    return {
        "seed": image.planned.spec.seed,
        "style": None if style is None else style.terms[0].id,
        "strength": None if style is None else style.strength,
        "size": str(image.planned.output.size),
        "prompt": image.planned.spec.prompt,
        "warnings": list(image.warnings),
    }


def _result(content: dict[str, Any], *files: ContentBlock) -> CallToolResult:
    """The files, and what is said of them as JSON, for models in text and for programs as it is."""
    text = TextContent(type="text", text=json.dumps(content))
    return CallToolResult(content=[*files, text], structured_content=content)


def _decoded(image: str) -> bytes:
    """The file of a picture in base64, of which models often make a `data:` URL."""
    encoded = image.partition(",")[2] if image.startswith("data:") else image
    try:
        return b64decode(encoded, validate=True)
    except NotBase64:
        raise InvalidRequest(
            "One of the images is not base64; send the bytes of its file in base64."
        ) from None
