"""CurrentKeyring: the keyring as the file of API keys says it now."""

from __future__ import annotations

from pathlib import Path

import structlog

from service.access.keyring import Keyring, read_keyring
from service.settings import Settings

log = structlog.get_logger(__name__)


class CurrentKeyring:
    """Reads the file again when it has changed: keys come and go without a restart.

    A file that cannot be used, be it away, empty or with a wrong line, changes nothing: the keys read last
    hold, and the log says why. ValueError at first, when there are no keys to keep.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Taken before the file is read: a change meanwhile shows at the next look.
        self._mark = _mark(settings.api_keys_file)
        self._keyring = read_keyring(settings)

    @property
    def now(self) -> Keyring:
        """Looks at the file's dates each time, which takes some microseconds."""
        mark = _mark(self._settings.api_keys_file)
        if mark != self._mark:
            self._mark = mark
            try:
                self._keyring = read_keyring(self._settings)
            except ValueError as error:
                log.error("api_keys_unusable", reason=str(error))
            else:
                log.info("api_keys_read", num_keys=len(self._keyring))
        return self._keyring


def _mark(path: Path | None) -> tuple[int, ...] | None:
    """What tells one state of the file from another; None when there is none.

    Its number too: a file that was written aside and put in its place, as Kubernetes does, may be older.
    """
    try:
        found = None if path is None else path.expanduser().stat()
    except OSError:
        return None
    return found and (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
