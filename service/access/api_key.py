"""ApiKey: a caller's name, tenant and limits, stored as a line of text with a hash of the secret."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import asdict, dataclass, fields

from service.storage.schema import NO_TENANT

# Scanners recognise by it a secret that leaked into a log or a repository.
PREFIX = "atl_"
MAX_STRENGTH = 1.5  # of a style, in a line and in a request
HASH = "sha256:"
# Beyond it, the others would wait as if there were no turns.
MAX_WEIGHT = 100
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Whether there is such a style is the store's to say, when it is used.
_STYLE = re.compile(r"((?:sty|sc\d+)_[A-Za-z0-9_-]{1,5000})(?::(\d{1,2}(?:\.\d{1,8})?))?")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one API key may request in a minute, and its tenant's styles may take; None is without limit."""

    requests: int | None = None
    images: int | None = None
    styles: int | None = None
    bytes: int | None = None


OPTIONS = ("tenant", *(field.name for field in fields(Limits)), "style", "weight", "webhook")
BOUNDS = ", ".join(f"{field.name}=N" for field in fields(Limits))


@dataclass(frozen=True, slots=True)
class DefaultStyle:
    """The style of requests that name none: a style ID or a style code, and the amount of it."""

    id: str
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class ApiKey:
    name: str  # for the log; no two keys share one
    tenant: str  # whose styles it sees; several keys may share one
    digest: bytes  # SHA-256 of the secret; 256 random bits need no slow hash
    limits: Limits
    style: DefaultStyle | None = None
    weight: int = 1  # how many of its images run for one of a key with weight 1, while both have some waiting
    webhook: str | None = None  # the URL of its jobs' webhooks, where a request names none


def new_secret() -> str:
    """The secret that a client sends: 256 random bits, in 47 characters."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def write_line(
    secret: str,
    name: str,
    *,
    tenant: str | None = None,
    limits: Limits | None = None,
    style: str | None = None,
    weight: int = 1,
    webhook: str | None = None,
) -> str:
    """The line that admits `secret`; ValueError when `read_line` would refuse it."""
    _require_name(name)  # before a blank in it makes two words
    parts = [name, HASH + digest_of(secret).hex()]
    if tenant is not None:
        parts.append(f"tenant={tenant}")
    for option, bound in (asdict(limits) if limits is not None else {}).items():
        if bound is not None:
            parts.append(f"{option}={bound}")
    if style is not None:
        parts.append(f"style={style}")
    if weight != 1:
        parts.append(f"weight={weight}")
    if webhook is not None:
        parts.append(f"webhook={webhook}")
    line = " ".join(parts)
    read_line(line, Limits())
    return line


def read_line(line: str, limits: Limits) -> ApiKey:
    """`NAME sha256:HEX` and any of OPTIONS, as `tenant=NAME`, `requests=N`, `style=STYLE[:STRENGTH]`.

    ValueError says what is wrong. The tenant defaults to the key's name; an empty `tenant=` is NO_TENANT.
    `limits` apply where the line has none; the value `none` removes one.
    """
    name, _, rest = line.strip().partition(" ")
    if name.startswith(PREFIX):  # said without repeating it: what is wrong here ends up in logs
        raise ValueError("this is a key itself, where a line with its name and hash belongs")
    hashed, *options = rest.split() or [""]
    _require_name(name)
    digest = hashed.removeprefix(HASH)
    if not hashed.startswith(HASH) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"after the name {name} comes {HASH} and 64 hex digits")
    chosen = _options(options)
    tenant = chosen.get("tenant", name)
    if tenant != NO_TENANT and not _NAME.fullmatch(tenant):
        raise ValueError(f"the tenant {tenant[:70]!r} must be 1 to 64 of A-Z a-z 0-9 . _ -, or empty")
    return ApiKey(
        name=name,
        tenant=tenant,
        digest=bytes.fromhex(digest),
        limits=Limits(**{option: _bound(chosen, option, bound) for option, bound in asdict(limits).items()}),
        style=_style(chosen["style"]) if "style" in chosen else None,
        weight=_weight(chosen),
        webhook=_webhook(chosen),
    )


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name {name[:70]!r} must be 1 to 64 of A-Z a-z 0-9 . _ -")


def _options(words: list[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for word in words:
        option, equals, value = word.partition("=")
        if not equals or option not in OPTIONS:
            raise ValueError(
                f"{word[:70]!r} is not one of tenant=NAME, {BOUNDS}, style=STYLE, weight=N, webhook=URL"
            )
        if option in chosen:
            raise ValueError(f"{option} is there twice")
        chosen[option] = value
    return chosen


def _bound(chosen: dict[str, str], option: str, otherwise: int | None) -> int | None:
    value = chosen.get(option)
    if value is None:
        return otherwise
    if value == "none":
        return None
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 10**15):
        raise ValueError(f"{option}={value[:20]} must be a number above 0, or none")
    return int(value)


def _style(text: str) -> DefaultStyle:
    match = _STYLE.fullmatch(text)
    strength = float(match[2] or 1) if match else 0.0
    if match is None or strength > MAX_STRENGTH:
        raise ValueError(
            f"style={text[:70]} must be a style ID or style code, and may go on with its strength, 0 to "
            f"{MAX_STRENGTH}, such as sty_...:0.7"
        )
    return DefaultStyle(match[1], strength)


def _webhook(chosen: dict[str, str]) -> str | None:
    """Whether the service may call it is the settings' to say, when it is used."""
    url = chosen.get("webhook")
    if url is not None and (not url.startswith(("https://", "http://")) or "," in url):
        raise ValueError(f"webhook={url[:70]} must be a URL that begins with https://, without commas")
    return url


def _weight(chosen: dict[str, str]) -> int:
    value = chosen.get("weight", "1")
    if not (value.isascii() and value.isdigit() and 0 < int(value) <= MAX_WEIGHT):
        raise ValueError(f"weight={value[:20]} must be a number from 1 to {MAX_WEIGHT}")
    return int(value)
