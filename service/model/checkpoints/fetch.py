"""Fetching the released checkpoints from the hub: first a plan, then the files it names, each checked."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub import HfApi, RepoFile, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not in __all__
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from service.model.checkpoints.family import KnownFile, Source
from service.model.checkpoints.fetch_record import FILE_NAME, FetchedFile, read_record, write_record
from service.model.checkpoints.loader import choose_weights, shards_of
from service.model.checkpoints.memory_budget import in_bytes
from service.model.checkpoints.registry import BUNDLED, PRESETS

# The first digits of a commit, where a preset has no more. Short names of branches are not of this form.
_FIRST_DIGITS = re.compile(r"[0-9a-f]{7,39}")
# A size on the hub's pages has three digits.
_SIZE_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Download:
    """A file of the hub, and the folder that it goes into."""

    repository: str
    commit: str
    name: str
    folder: Path
    num_bytes: int
    checksum: str  # its sha256, or of a small file its git blob's
    is_small: bool

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def is_ready(self) -> bool:
        """As far as its size tells."""
        return self.path.is_file() and self.path.stat().st_size == self.num_bytes

    @property
    def num_missing_bytes(self) -> int:
        num_partial = self.partial.stat().st_size if self.partial.is_file() else 0
        return 0 if self.is_ready else self.num_bytes - num_partial

    @property
    def partial(self) -> Path:
        """Where it grows; named by its checksum, so that no other version is continued."""
        return self.path.with_name(f".{self.path.name}.{self.checksum[:12]}.partial")

    def is_checksum_of(self, path: Path) -> bool:
        """Whether a file has the hub's checksum: reads all of it."""
        if self.is_small:
            return git_hash(path.read_bytes()) == self.checksum
        return _sha256(path) == self.checksum


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    model: str
    models_dir: Path
    sources: tuple[tuple[Source, str], ...]  # with the commit that each one's revision is now
    downloads: tuple[Download, ...]
    recorded: Mapping[str, FetchedFile]  # what `fetched.json` says, by path in the models folder

    @property
    def changed(self) -> list[Download]:
        """The files that the hub had otherwise when they were first fetched."""
        return [
            download
            for download in self.downloads
            if (earlier := self.recorded.get(self.path_of(download))) is not None
            and earlier.checksum != download.checksum
        ]

    def path_of(self, download: Download) -> str:
        """In the models folder."""
        return download.path.relative_to(self.models_dir).as_posix()

    @property
    def num_missing_bytes(self) -> int:
        return sum(download.num_missing_bytes for download in self.downloads)

    def table(self) -> str:
        """What a person reads before anything is downloaded."""
        lines = []
        for source, commit in self.sources:
            pinned = "" if source.revision == commit else f", which is commit {commit} now"
            lines.append(f"{source.repository} at {source.revision}{pinned}")
            for download in self.downloads:
                if download.repository == source.repository:
                    state = "there" if download.is_ready else "to fetch"
                    state = "changed" if download in self.changed else state
                    lines.append(f"  {in_bytes(download.num_bytes):>9}  {state:8}  {download.path}")
        total = sum(download.num_bytes for download in self.downloads)
        lines.append(f"{in_bytes(total)} in all, {in_bytes(self.num_missing_bytes)} to fetch")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub that `huggingface_hub` is set to (HF_ENDPOINT), or another one."""

    endpoint: str | None = None

    def plan(self, model: str, models_dir: Path, revisions: Mapping[str, str] | None = None) -> DownloadPlan:
        """The files that a preset needs, and nothing else. Downloads an index of shards at most.

        `revisions` overrides a repository's. ValueError with a sentence: no such preset, not there, offline.
        """
        if model in BUNDLED:
            raise ValueError(f"{model} comes inside the package: there is nothing to fetch")
        if model not in PRESETS:
            raise ValueError(f"There is no model {model!r} to fetch: give one of {', '.join(PRESETS)}")
        sources: list[tuple[Source, str]] = []
        downloads: list[Download] = []
        _, preset = PRESETS[model]
        for pinned in preset.sources:
            revision = (revisions or {}).get(pinned.repository, pinned.revision)
            source = replace(pinned, revision=revision)
            with _readable_errors(source):
                commit = self._commit(source)
                found = list(self._downloads(source, commit, models_dir / source.into))
            if source == pinned:
                _require_known(source, found)
            downloads += found
            sources.append((source, commit))
        return DownloadPlan(model, models_dir, tuple(sources), tuple(downloads), read_record(models_dir))

    def fetch(self, plan: DownloadPlan, say: Callable[[str], None], *, accepts_changes: bool = False) -> None:
        """Download what is missing, resume what was interrupted, check every file, and write down what it is.

        ValueError with a sentence: no room, offline, a file that is not the hub's, or, unless that is
        accepted, one that the hub had otherwise when it was first fetched.
        """
        if plan.changed and not accepts_changes:
            raise ValueError(_change(plan, plan.changed[0]))
        folder = _require_room(plan)
        sources = {source.repository: source for source, _ in plan.sources}
        try:
            with FileLock(folder / ".fetch.lock", timeout=0):
                # Before anything is there, so that a fetch that is interrupted resumes with the same files.
                record = read_record(folder) | {plan.path_of(file): _entry(file) for file in plan.downloads}
                write_record(folder, record)
                for download in plan.downloads:
                    if not (download.is_ready and download.is_checksum_of(download.path)):
                        with _readable_errors(sources[download.repository]):
                            self._download(download)
                    if download.is_small:
                        sha256 = _sha256(download.path)
                        record[plan.path_of(download)] = replace(_entry(download), sha256=sha256)
                        write_record(folder, record)
                    say(f"{download.path}: {in_bytes(download.num_bytes)}, checksum right")
        except Timeout as error:
            raise ValueError(f"Another `atelier fetch` is at work in {folder}") from error

    def _download(self, file: Download) -> None:
        """To a partial file, which is resumed: the library's own download starts over when interrupted."""
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with file.partial.open("ab") as stream:
            http_get(
                hf_hub_url(file.repository, file.name, revision=file.commit, endpoint=self.endpoint),
                stream,
                resume_size=stream.tell(),
                # Plain bytes, so that lengths are the listed ones.
                headers=build_hf_headers() | {"Accept-Encoding": "identity"},
                expected_size=file.num_bytes,
                displayed_filename=file.name,
            )
        if not file.is_checksum_of(file.partial):
            file.partial.unlink()
            raise ValueError(
                f"{file.name} came without the checksum that {file.repository} gives, so it was removed: "
                "fetch again. If that repeats, something between here and the hub changes files."
            )
        file.partial.replace(file.path)

    def _commit(self, source: Source) -> str:
        """That the revision is now, or whose first digits it is."""
        api = HfApi(self.endpoint)
        if _FIRST_DIGITS.fullmatch(source.revision) is None:
            return str(api.model_info(source.repository, revision=source.revision).sha)
        commits = {commit.commit_id for commit in api.list_repo_commits(source.repository)}
        found = [commit for commit in commits if commit.startswith(source.revision)]
        if len(found) != 1:
            raise ValueError(
                f"{source.repository} has {'several commits' if found else 'no commit'} beginning with "
                f"{source.revision}: name one with --revision {source.repository}=COMMIT"
            )
        return found[0]

    def _downloads(self, source: Source, commit: str, folder: Path) -> Iterator[Download]:
        tree = HfApi(self.endpoint).list_repo_tree(source.repository, recursive=True, revision=commit)
        files = {file.path: file for file in tree if isinstance(file, RepoFile)}
        wanted = list(source.files)
        for weights in source.weights:
            wanted += self._weight_files(source, commit, weights, files)
        for name in wanted:
            if name not in files:
                raise ValueError(f"{source.repository} at {source.revision} has no {name}")
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(
                    f"{source.repository} names a file outside its folder, {name!r}: not fetched"
                )
            file = files[name]
            checksum = file.lfs.sha256 if file.lfs else file.blob_id
            yield Download(source.repository, commit, name, folder, file.size, checksum, file.lfs is None)

    def _weight_files(
        self, source: Source, commit: str, weights: str, files: Mapping[str, RepoFile]
    ) -> list[str]:
        prefix = f"{weights}/" if weights else ""
        inside = [name[len(prefix) :] for name in files if name.startswith(prefix)]
        chosen = choose_weights([name for name in inside if "/" not in name])
        if chosen is None:
            raise ValueError(f"{source.repository} at {source.revision} has no weights in {weights or 'it'}")
        name, is_index = chosen
        if not is_index:
            return [prefix + name]
        with tempfile.TemporaryDirectory() as folder:
            index = hf_hub_download(
                source.repository, prefix + name, revision=commit, local_dir=folder, endpoint=self.endpoint
            )
            shards = shards_of(Path(index).read_bytes(), source.holds)
        return [prefix + name, *(prefix + shard for shard in shards)]


def _require_known(source: Source, downloads: Sequence[Download]) -> None:
    """ValueError for a file at the pinned revision that is not the one that was released there."""
    known = {file.name: file for file in source.known}
    for download in downloads:
        if (file := known.get(download.name)) is not None and not _is_known(download, file):
            raise ValueError(
                f"{source.repository} lists {file.name} with {in_bytes(download.num_bytes)} and the checksum "
                f"{download.checksum}; the released file has {file.gigabytes:g} GB"
                f"{f' and {file.sha256}' if file.sha256 else ''}. The mirror may be wrong. To fetch another "
                f"version on purpose, name it: --revision {source.repository}=REVISION"
            )


def _is_known(download: Download, file: KnownFile) -> bool:
    if file.sha256 is not None:
        return download.checksum == file.sha256
    return abs(download.num_bytes / 1e9 - file.gigabytes) <= _SIZE_TOLERANCE * file.gigabytes


def _change(plan: DownloadPlan, file: Download) -> str:
    earlier = plan.recorded[plan.path_of(file)]
    return (
        f"{file.repository} has changed {file.name}: at commit {file.commit} its checksum is "
        f"{file.checksum}, and when it was first fetched, at {earlier.commit}, it was {earlier.checksum} "
        f"(see {FILE_NAME}). Nothing was fetched. If the change is wanted, "
        f"`atelier fetch {plan.model} --accept-changes` takes it."
    )


def _entry(file: Download) -> FetchedFile:
    sha256 = None if file.is_small else file.checksum
    return FetchedFile(file.repository, file.commit, file.num_bytes, file.checksum, sha256)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return sha_fileobj(stream).hex()


def _require_room(plan: DownloadPlan) -> Path:
    """The models folder, made."""
    folder = plan.models_dir
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < plan.num_missing_bytes:
        raise ValueError(
            f"{folder} has {in_bytes(free)} free, and {in_bytes(plan.num_missing_bytes)} are to be fetched. "
            "Make room, or name another folder as ATELIER_MODELS_DIR."
        )
    return folder


@contextmanager
def _readable_errors(source: Source) -> Iterator[None]:
    """The library's errors as sentences about the repository that was asked for."""
    try:
        yield
    except GatedRepoError as error:
        raise ValueError(
            f"{source.repository} asks its readers to agree to its terms: do so on its page, then log in "
            "with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"The hub has no {source.repository}, or this login may not read it") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{source.repository} has no revision {source.revision}") from error
    except OfflineModeIsEnabled as error:
        raise ValueError("HF_HUB_OFFLINE is set, so nothing can be fetched: unset it") from error
    except (EntryNotFoundError, httpx2.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{source.repository} could not be read from the hub: {reason[0]}. What was fetched so far is "
            "kept: the same command goes on from there."
        ) from error
