"""Keyring: the API keys that the service accepts, and where it may listen without any."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import structlog

from service.access.api_key import ApiKey, Limits, digest_of, read_line
from service.settings import Settings

log = structlog.get_logger(__name__)


class Keyring:
    """The accepted API keys. An empty keyring admits everyone."""

    def __init__(self, api_keys: Sequence[ApiKey]) -> None:
        self.api_keys = tuple(api_keys)

    def find(self, secret: str) -> ApiKey | None:
        """The key with this secret. Takes constant time, so that timing says nothing about a guess."""
        digest, found = digest_of(secret), None
        for api_key in self.api_keys:
            if hmac.compare_digest(api_key.digest, digest):
                found = api_key
        return found


class ReloadingKeyring:
    """Reads the file again when it has changed: keys are added and removed without a restart.

    A file that cannot be used (missing, empty, a wrong line) changes nothing: the keys read last stay in
    force, and the log says why. ValueError at the first reading.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Taken before the file is read, so that a change during the reading is noticed later.
        self._state = settings.api_keys_file and _state(settings.api_keys_file)
        self._keyring = read_keyring(settings)

    @property
    def now(self) -> Keyring:
        """The current keyring; checks the file's dates, which takes some microseconds."""
        path = self._settings.api_keys_file
        if path is not None and (state := _state(path)) != self._state:
            self._state = state
            try:
                self._keyring = read_keyring(self._settings)
            except ValueError as error:
                log.error("api_keys_unusable", reason=str(error))
            else:
                log.info("api_keys_read", num_keys=len(self._keyring.api_keys))
        return self._keyring


def read_keyring(settings: Settings) -> Keyring:
    """The keys of the file and of the environment. ValueError says what is wrong, and where."""
    limits = Limits(
        settings.requests_per_minute,
        settings.images_per_minute,
        settings.max_styles,
        settings.max_style_bytes,
    )
    found: dict[str, ApiKey] = {}
    for position, line in _lines(settings):
        try:
            api_key = read_line(line, limits)
        except ValueError as error:
            raise ValueError(
                f"{position} is no API key: {error}. `atelier keys new` prints lines."
            ) from error
        if api_key.name in found:
            raise ValueError(f"{position} names {api_key.name} again; give each API key a name of its own.")
        found[api_key.name] = api_key
    return Keyring(list(found.values()))


def require_guard(settings: Settings, keyring: Keyring) -> None:
    """ValueError when other machines could call without a key and no setting allows it."""
    if keyring.api_keys or settings.allow_anonymous or _is_loopback(settings.host):
        return
    raise ValueError(
        f"Without API keys the service listens on this machine alone, not on {settings.host or 'everything'}"
        ". Name a file of keys in ATELIER_API_KEYS_FILE (`atelier keys new NAME` makes one), or set "
        "ATELIER_ALLOW_ANONYMOUS=true when something else decides who may call."
    )


def _lines(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where it is and its text, for each line that is neither blank nor a comment."""
    # Commas too, because the environment files of containers hold no line breaks.
    for number, line in enumerate((settings.api_keys or "").replace(",", "\n").split("\n"), start=1):
        if line.strip():
            yield f"Entry {number} of ATELIER_API_KEYS", line.strip()
    path = settings.api_keys_file
    if path is None:
        return
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"The file of API keys {path} cannot be read: {reason}.") from error
    keys = [
        (f"Line {number} of {path}", line.strip())
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not keys:  # else a file that was emptied by accident would let everyone in
        raise ValueError(f"The file of API keys {path} holds none; add the line of `atelier keys new NAME`.")
    yield from keys


def _is_loopback(host: str) -> bool:
    """Host names are not resolved, as their addresses may change after the start."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _state(path: Path) -> tuple[int, ...] | None:
    """Identifies the state of the file; None when there is none. The inode is part of it, because a file that
    replaces another, as in Kubernetes, may be older.
    """
    try:
        found = path.expanduser().stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
