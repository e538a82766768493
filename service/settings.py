"""Settings: the only reader of the environment."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.model.checkpoints.options import (
    DecodingChoice,
    LoadOptions,
    PrecisionChoice,
    TextDeviceChoice,
    TextPrecisionChoice,
)

PREFIX = "ATELIER_"


class Settings(BaseSettings):
    """Everything that can be chosen at start, frozen. Each field is also the variable ATELIER_<FIELD>.

    Arguments win over the environment. A variable with the prefix that names no field is refused, so that a
    misspelt setting is a sentence at start and not a default in production.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("atelier"), description="Folder of the embedded style store."
    )
    model: str = Field(default="nano", description="Name of a known model, or the folder of one.")
    models_dir: Path = Field(
        default_factory=lambda known: known["data_dir"] / "models",
        description="Folder of fetched and converted models; `models` in the data folder by default.",
    )
    infinity_revision: str | None = Field(
        default=None, description="Commit or branch of Infinity's repository to fetch; unset: main."
    )
    flan_t5_revision: str | None = Field(
        default=None, description="Commit or branch of flan-t5-xl to fetch; unset: a known commit."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of the model; unset: one for each core."
    )
    precision: PrecisionChoice = Field(
        default="auto", description="Of the model: fp32 or bf16; auto: bf16 on a GPU, fp32 on a CPU."
    )
    text_precision: TextPrecisionChoice = Field(
        default="auto", description="Of the text encoder: fp32, bf16 or fp16; auto: fp16 on a GPU."
    )
    text_device: TextDeviceChoice = Field(
        default="beside",
        description="The text encoder's place: beside the transformer; cpu, to read prompts there; fetched, "
        "on the GPU only while prompts are read.",
    )
    decoding: DecodingChoice = Field(
        default="auto",
        description="Of images: whole; strips, in less memory; auto: strips where whole does not fit.",
    )
    sizes: str = Field(
        default="auto",
        description="Sizes that are enabled, with commas between them, the default size first; all; auto: "
        "all of a model with few, the first of one with many.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the model with PyTorch's compiler while the service starts, which takes minutes "
        "and a C++ compiler. Not run on a GPU yet; on a CPU it pays for small models alone.",
    )
    redis_url: str | None = Field(
        default=None, description="Redis of the style store; unset: an embedded server."
    )
    api_keys_file: Path | None = Field(
        default=None, description="File of API keys, a line each, as `atelier keys new` prints them."
    )
    api_keys: str | None = Field(
        default=None, description="More such lines, with commas or line breaks between them."
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Listen beyond this machine without API keys: something else decides who may call.",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Of an API key whose line says nothing else; unset: no limit."
    )
    images_per_minute: int | None = Field(
        default=None, ge=1, description="Of an API key whose line says nothing else; unset: no limit."
    )
    idempotency_seconds: int = Field(
        default=3600, ge=1, description="How long the answer to a request with an Idempotency-Key is kept."
    )
    max_queued: int = Field(default=64, ge=1, description="Images that may wait for the model.")
    max_queued_uploads: int = Field(
        default=64, ge=1, description="Uploads that may be in work at once, waiting ones included."
    )
    max_upload_bytes: int = Field(default=10 * 2**20, ge=1, description="Largest upload.")
    max_upload_pixels: int = Field(
        default=50_000_000, ge=1, description="Most pixels an uploaded picture may hold."
    )
    max_prompt_chars: int = Field(default=4000, ge=1, description="Longest prompt.")
    request_timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        description="A request that takes longer is given up, from its arrival on; unset: never. "
        "A client may ask for less by X-Request-Timeout.",
    )
    ping_seconds: float = Field(
        default=15.0, gt=0, description="A stream on which nothing happened for so long carries a comment."
    )
    drain_seconds: int = Field(
        default=60, ge=0, description="After SIGTERM, how long accepted work may take to finish."
    )
    log_prompts: bool = Field(default=False, description="Write prompts to the log.")
    log_format: Literal["console", "json"] = Field(default="console", description="Form of the log's lines.")

    @property
    def choices(self) -> LoadOptions:
        """What is chosen about the model."""
        return LoadOptions(
            precision=self.precision,
            text_precision=self.text_precision,
            text_device=self.text_device,
            sizes=self.sizes,
            decoding=self.decoding,
            compile=self.compile,
        )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_variables(cls, values: Any) -> Any:
        known = [PREFIX + name.upper() for name in cls.model_fields]
        for variable in sorted(os.environ):
            name = variable.upper()
            if name.startswith(PREFIX) and name not in known:
                near = get_close_matches(name, known, n=1, cutoff=0)[0]
                raise ValueError(f"{variable} is not a setting; the nearest one is {near}")
        return values


def read_settings(**flags: object) -> Settings:
    """Settings from the environment, under the flags that are not None. ValueError: a sentence a problem."""
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        # A default that follows from a mistaken setting is no mistake of its own.
        mistakes = [each for each in error.errors() if each["type"] != "default_factory_not_called"]
        raise ValueError("\n".join(_sentence(dict(mistake)) for mistake in mistakes)) from None


def prepare_torch(settings: Settings) -> None:
    """What torch and its libraries read from the environment, and only once: before it is imported.

    Nothing that the environment says already is changed, but for `settings.threads`.
    """
    # Idle threads that spin would take the core on which the event loop answers; but to wake one costs more
    # than many a small operation. So they spin for some 50 us, the time between two operations: on two cores
    # nano takes 0.55 of the time that it takes with threads that sleep at once. (The second is GNU's alone.)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if settings.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if settings.compile:  # kept for the next start; a container's own folders may be read-only
        for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
            os.environ.setdefault(name, str(settings.data_dir / "compiled" / folder))
    # Batches of changing sizes leave gaps between a GPU's blocks that no later one fits: segments that grow
    # have none.
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def _sentence(error: dict[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if not error["loc"]:
        return message
    return f"{PREFIX}{str(error['loc'][0]).upper()} {message}, not {error['input']!r}"
