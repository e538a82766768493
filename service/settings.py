"""Settings. Nothing else in the service reads the environment."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.model.checkpoints.options import (
    DecodingChoice,
    LoadOptions,
    PrecisionChoice,
    TextDeviceChoice,
    TextPrecisionChoice,
)
from service.model.device.control_groups import ROOT
from service.model.device.cores import usable_cores

PREFIX = "ATELIER_"
MIN_SECRET_CHARS = 32
MetadataChoice = Literal["none", "minimal", "full"]


class ClientSettings(BaseSettings):
    """Where the commands that call a service find it: ATELIER_URL and ATELIER_API_KEY."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    url: str | None = Field(default=None, description="Address of a running service.")
    api_key: SecretStr | None = Field(default=None, description="API key to send to it.")


class Settings(BaseSettings):
    """Everything that can be set at start, frozen. Each field is also the variable ATELIER_<FIELD>.

    Arguments override the environment. An unknown variable with the prefix is an error, so that a misspelt
    setting stops the start instead of leaving a default in place.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0: any free port.")
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("atelier"), description="Folder of the embedded style store."
    )
    model: str = Field(default="nano", description="Name of a known model, or the folder of one.")
    model_aliases: str = Field(
        default="",
        description="More names for the served model, NAME=MODEL separated by commas, such as "
        "gpt-image-1=nano; the name * stands for any other.",
    )
    size_policy: Literal["nearest", "native"] = Field(
        default="nearest",
        description="Sizes that are not enabled: nearest draws the nearest enabled size and resizes it; "
        "native refuses them.",
    )
    mcp: bool = Field(
        default=False, description="Serve agents at /mcp, too; needs the extra atelier-style[mcp]."
    )
    models_dir: Path = Field(
        default_factory=lambda known: known["data_dir"] / "models",
        description="Folder of fetched and converted models; `models` in the data folder by default.",
    )
    infinity_revision: str | None = Field(
        default=None,
        description="Commit or branch of Infinity that `atelier fetch` downloads; unset: a known commit.",
    )
    flan_t5_revision: str | None = Field(
        default=None,
        description="Commit or branch of flan-t5-xl that `atelier fetch` downloads; unset: a known commit.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of the model; unset: one per core, but for one core."
    )
    precision: PrecisionChoice = Field(
        default="auto",
        description="Precision of the model: fp32, bf16 or, less exact, fp8; auto: bf16 on a GPU, fp32 on a "
        "CPU.",
    )
    text_precision: TextPrecisionChoice = Field(
        default="auto",
        description="Precision of the text encoder: fp32, bf16 or fp16; auto: fp16 on a GPU, fp32 on a CPU.",
    )
    text_device: TextDeviceChoice = Field(
        default="beside",
        description="Where the text encoder runs: beside the transformer; on the cpu; or fetched from the "
        "CPU to the GPU while it encodes prompts.",
    )
    decoding: DecodingChoice = Field(
        default="auto",
        description="How images are decoded: whole; strips, in less memory; auto: strips where whole images "
        "do not fit.",
    )
    sizes: str = Field(
        default="auto",
        description="Enabled sizes, separated by commas, the default size first; or all; auto: all if the "
        "model has at most four sizes, else its first.",
    )
    compile: bool | None = Field(
        default=None,
        description="Compile the model with PyTorch's compiler while the service starts, which takes minutes "
        "the first time and needs a C++ compiler. Unset: on a GPU, where that and Triton are there; on a CPU "
        "only small models gain.",
    )
    redis_url: str | None = Field(
        default=None, description="URL of the Redis or Valkey with the styles; unset: an embedded server."
    )
    api_keys_file: Path | None = Field(
        default=None, description="File of API keys, one line per key, as `atelier keys new` prints it."
    )
    api_keys: str | None = Field(
        default=None, description="More API keys, in the same lines, separated by commas or line breaks."
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Listen beyond loopback without API keys, for example behind a proxy that authenticates.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Requests per minute of an API key whose line sets no limit; unset: no limit.",
    )
    images_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Images per minute of an API key whose line sets no limit; unset: no limit.",
    )
    max_styles: int = Field(
        default=10_000,
        ge=1,
        description="Maximum number of styles that are kept for the tenant of an API key whose line sets no "
        "limit, and for a service without API keys.",
    )
    max_style_bytes: int = Field(
        default=2**30, ge=1, description="The same for the bytes of their pictures and records."
    )
    idempotency_seconds: int = Field(
        default=3600, ge=1, description="How long the response to a request with an Idempotency-Key is kept."
    )
    max_idempotency_bytes: int = Field(
        default=256 * 2**20, ge=2**20, description="Maximum size of all such responses together."
    )
    max_idempotency_bytes_per_tenant: int = Field(
        default=64 * 2**20, ge=2**20, description="Maximum size of those of one tenant; its oldest go first."
    )
    job_ttl_seconds: int = Field(
        default=24 * 3600,
        ge=1,
        description="How long the result of a job is kept; its status, twice as long.",
    )
    max_job_attempts: int = Field(
        default=5, ge=1, description="How often a job is started whose worker fails or dies, before it fails."
    )
    job_min_share: float = Field(
        default=0.02,
        ge=0,
        le=0.5,
        description="Share of the model's time that jobs get at least, when requests never pause; 0: none.",
    )
    max_jobs: int = Field(default=1000, ge=1, description="Maximum number of jobs that wait or run.")
    max_job_request_bytes: int = Field(
        default=128 * 2**20, ge=2**20, description="Maximum size of their requests together."
    )
    max_job_result_bytes: int = Field(
        default=512 * 2**20, ge=2**20, description="Maximum size of the results of all jobs together."
    )
    max_job_result_bytes_per_tenant: int = Field(
        default=128 * 2**20, ge=2**20, description="Maximum size of those of one tenant; its oldest go first."
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="From which the secret of each API key's webhooks is derived: at least 32 characters.",
    )
    webhook_http: bool = Field(default=False, description="Send webhooks to http:// addresses, too.")
    webhook_networks: str = Field(
        default="",
        description="Networks that webhooks may reach although they are not public, such as 10.1.0.0/16, "
        "separated by commas.",
    )
    webhook_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Maximum time for a webhook to be answered."
    )
    webhook_retry_seconds: float = Field(
        default=5.0,
        gt=0,
        description="Longest pause before a webhook is sent again; each further one is four times as long, "
        "up to an hour.",
    )
    max_webhook_attempts: int = Field(
        default=8, ge=1, description="How often a webhook is sent before it is given up."
    )
    allowed_hosts: str = Field(
        default="",
        description="Host names, separated by commas, under which a service without API keys may be called "
        "besides loopback names; * allows any.",
    )
    cors_origins: str = Field(
        default="",
        description="Origins of pages elsewhere that may use this service from a browser, such as "
        "https://app.example, separated by commas.",
    )
    playground: bool = Field(
        default=True, description="Serve a page at / to try the service; false: / leads to the reference."
    )
    max_connections: int = Field(
        default=1000,
        ge=1,
        description="Maximum number of open connections; fewer where the limit of file descriptors is lower.",
    )
    max_header_bytes: int = Field(
        default=64 * 2**10, ge=1024, description="Maximum size of a request's line and headers together."
    )
    max_body_bytes_in_progress: int = Field(
        default=256 * 2**20,
        ge=2**20,
        description="Maximum size of all bodies together that are being received or used.",
    )
    header_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Maximum time for the headers of a request to arrive."
    )
    silence_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Maximum time without progress while a client sends a body or takes a response.",
    )
    max_queued: int = Field(default=64, ge=1, description="Maximum number of images waiting for the model.")
    max_queued_uploads: int = Field(
        default=64, ge=1, description="Maximum number of uploads in progress, including those that wait."
    )
    max_upload_bytes: int = Field(
        default=10 * 2**20, ge=1, description="Maximum size of an uploaded picture."
    )
    max_upload_pixels: int = Field(
        default=50_000_000, ge=1, description="Maximum number of pixels of an uploaded picture."
    )
    max_request_pixels: int = Field(
        default=100_000_000,
        ge=1,
        description="Maximum number of pixels to which the pictures of one request are decoded, together.",
    )
    max_prompt_chars: int = Field(default=32_000, ge=1, description="Maximum length of a prompt.")
    request_timeout_seconds: float = Field(
        default=600.0,
        gt=0,
        description="Maximum time from the arrival of a request to its response. "
        "A client can ask for less with X-Request-Timeout.",
    )
    ping_seconds: float = Field(
        default=15.0,
        gt=0,
        description="Interval of keep-alive comments on a stream that has no other events.",
    )
    drain_seconds: int = Field(
        default=60, ge=0, description="Time for accepted requests to finish after SIGTERM."
    )
    metadata: MetadataChoice = Field(
        default="minimal",
        description="What image files say of their origin: none; minimal: that a model made them, which one, "
        "seed, style IDs; full: the prompts, too.",
    )
    c2pa_cert: Path | None = Field(
        default=None, description="Certificates in PEM with which image files are signed, as C2PA defines it."
    )
    c2pa_key: Path | None = Field(default=None, description="Private key in PEM of `c2pa_cert`.")
    log_prompts: bool = Field(default=False, description="Write prompts to the log.")
    log_format: Literal["console", "json"] = Field(default="console", description="Format of log lines.")

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins of `cors_origins`."""
        return frozenset(filter(None, self.cors_origins.lower().replace(" ", "").split(",")))

    @property
    def choices(self) -> LoadOptions:
        """The settings that concern the model."""
        return LoadOptions(
            precision=self.precision,
            text_precision=self.text_precision,
            text_device=self.text_device,
            sizes=self.sizes,
            decoding=self.decoding,
            compile=self.compile,
        )

    @property
    def aliases(self) -> dict[str, str]:
        """The model that each alias stands for, by alias."""
        return _read_aliases(self.model_aliases)

    @field_validator("model_aliases")
    @classmethod
    def _check_aliases(cls, text: str) -> str:
        _read_aliases(text)
        return text

    @field_validator("webhook_networks")
    @classmethod
    def _check_networks(cls, text: str) -> str:
        for network in filter(None, text.replace(" ", "").split(",")):
            ip_network(network)
        return text

    @field_validator("webhook_secret")
    @classmethod
    def _require_long_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < MIN_SECRET_CHARS:
            raise ValueError(f"must have at least {MIN_SECRET_CHARS} characters")
        return secret

    @field_validator("cors_origins")
    @classmethod
    def _require_origins(cls, value: str) -> str:
        origins = filter(None, value.replace(" ", "").split(","))
        if not all(re.fullmatch(r"https?://[\w.:\[\]-]+", origin) for origin in origins):
            raise ValueError(
                "must be origins such as https://app.example, without a path, separated by commas"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_variables(cls, values: Any) -> Any:
        known = [PREFIX + name.upper() for name in cls.model_fields]
        of_clients = [PREFIX + name.upper() for name in ClientSettings.model_fields]
        for variable in sorted(os.environ):
            name = variable.upper()
            if name.startswith(PREFIX) and name not in known + of_clients:
                near = get_close_matches(name, known, n=1, cutoff=0)[0]
                raise ValueError(f"{variable} is not a setting; the nearest one is {near}")
        return values


def read_settings(**flags: object) -> Settings:
    """Settings from the environment, overridden by flags that are not None.

    ValueError: one line per invalid setting.
    """
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        # A default computed from an invalid setting fails too; only the setting is reported.
        mistakes = [found for found in error.errors() if found["type"] != "default_factory_not_called"]
        raise ValueError("\n".join(_sentence(dict(mistake)) for mistake in mistakes)) from None


def prepare_torch(settings: Settings) -> None:
    """Set the variables that torch and its libraries read once, when they are imported: call this before.

    Variables that are already set stay as they are, except for `settings.threads`.
    """
    # Idle threads that spin would occupy the event loop's core, but waking a thread takes longer than many
    # small operations. So they spin for about 50 us, the time between two operations: on two cores nano takes
    # 0.55 of the time that it takes with threads that sleep at once. (GOMP_SPINCOUNT is read by GNU's only.)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if settings.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(default_threads()))
    if settings.compile is not False:  # cached for the next start; a container's own folders may be read-only
        for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
            os.environ.setdefault(name, str(settings.data_dir / "compiled" / folder))
    # Batches of changing sizes fragment GPU memory; segments that grow do not.
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def default_threads(num_cores: int | None = None, groups: str | None = None, root: Path = ROOT) -> int:
    """One fewer than `usable_cores`, whose arguments these are, and at least one.

    The event loop, the image encoder and, of few threads, the decoder run on the core that is left. With a
    thread on every core, a single busy neighbour delays every operation, which waits for its slowest thread:
    docs/benchmarks.md has figures.
    """
    return max(1, usable_cores(num_cores, groups, root) - 1)


def _read_aliases(text: str) -> dict[str, str]:
    """ValueError unless the text is NAME=MODEL, separated by commas, and names nothing twice."""
    aliases: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        alias, _, model = (part.strip() for part in pair.partition("="))
        if not alias or not model or "@" in pair or alias in aliases:
            raise ValueError(
                "must be NAME=MODEL separated by commas, each NAME once and without @, "
                "such as gpt-image-1=nano,*=nano"
            )
        aliases[alias] = model
    return aliases


def _sentence(error: dict[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if not error["loc"]:
        return message
    return f"{PREFIX}{str(error['loc'][0]).upper()} {message}, not {error['input']!r}"
