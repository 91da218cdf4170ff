"""The files of one job: where each lies, and how readers and writers keep from seeing half of one.

`spec.json, datasets.json, profile/signatures.npz, plans/<number>.json, groups/<group>/..., logs/<name>.log, bundle/`
under `<storage>/jobs/<job>/`.  What the files mean is known to the stages that write them.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from service.errors import ArtifactDamaged, ArtifactNotFound, CohortError, StorageUnavailable
from workers.arrays import read_arrays
from workers.failures import FailureClass, classify
from workers.seals import Damaged, is_sealed, seal, unseal
from workers.storage import (
    FileInfo,
    Site,
    append,
    describe,
    files_below,
    has_file,
    is_remote,
    open_place,
    read_range,
    remove_drafts,
    remove_tree,
    write,
)

log = logging.getLogger(__name__)

ARBITRATION = "arbitration.json"
"""Where a job keeps what short training runs said of its groups."""
TAKEN_OVER = "taken-over.json"
"""A retry writes it last when it takes files over: its presence means that nothing is missing."""
_OLD_DRAFT_SECONDS = 60.0


def plan_path(number: int) -> str:
    """Where a job keeps a plan."""
    return f"plans/{number}.json"


def review_path(number: int) -> str:
    """Where a job keeps what was found out about a plan after it was made."""
    return f"plans/{number}-review.json"


@dataclass(frozen=True)
class Artifact:
    """A file as it is served."""

    place: Path
    info: FileInfo

    @property
    def is_local(self) -> bool:
        """Whether it can be opened where it lies."""
        return not is_remote(self.place)

    def chunks(self, start: int, stop: int, size: int = 2**20) -> Iterator[bytes]:
        """Bytes [start, stop), in pieces.  OSError where another file has taken its place meanwhile."""
        for first in range(start, stop, size):
            if first > start and describe(self.place).tag != self.info.tag:
                raise OSError(f"{self.info.path} was replaced while it was read.")
            yield read_range(self.place, first, min(first + size, stop))


def storage_error(error: Exception) -> CohortError | None:
    """What an error of reading says to whoever asked for a file; None for one that is not the storage's."""
    if isinstance(error, Damaged):
        return ArtifactDamaged(f"{error} Retry the job: what is damaged is made again.")
    if isinstance(error, OSError) or classify(error) is FailureClass.INFRASTRUCTURE:  # an object store's client has own
        return StorageUnavailable(
            "The storage of files does not answer, or refuses; the service's log has the details. Try again."
        )
    return None


class JobFiles:
    """The folder of one job.  Paths are relative to it, with forward slashes; none leads out of it.

    JSON objects are sealed: a damaged one is noticed when it is read (`workers.seals.Damaged`).
    """

    def __init__(self, storage: str | Path, job_id: str) -> None:
        """`storage`: a folder, or the place of an object store."""
        self.root = open_place(storage) / "jobs" / job_id

    def path(self, relative: str = "") -> Path:
        """Where a file lies.  ArtifactNotFound for a path that is absolute or leads out of the job's folder."""
        parts = PurePosixPath(relative).parts
        if "\0" in relative or "\\" in relative or relative.startswith("/") or ".." in parts:
            raise ArtifactNotFound(f"{relative!r:.200} is not the path of an artifact. List the job's artifacts.")
        return self.root.joinpath(*parts)

    def exists(self, relative: str) -> bool:
        return has_file(self.path(relative))

    def is_whole(self, relative: str) -> bool:
        """Whether a file is there.  Damaged for JSON or arrays that are not what was written."""
        try:
            place = self.file(relative)
            if relative.endswith(".npz"):
                read_arrays(place)
            elif relative.endswith(".json"):
                self.read_json(relative)
        except (ArtifactNotFound, FileNotFoundError):
            return False
        return True

    def write_text(self, relative: str, text: str) -> Path:
        """Writes all or nothing: whoever reads sees the old file or the new one, also after a power cut."""
        path = self.path(relative)
        is_object = relative.endswith(".json") and text.startswith("{") and text != "{}"
        write(path, seal(text) if is_object else text.encode(), _site(relative))
        return path

    def write_json_atomic(self, relative: str, value: Any) -> Path:
        """Writes plain data as JSON, all or nothing; NaN is refused."""
        return self.write_text(relative, json.dumps(value, allow_nan=False, indent=1))

    write_json = write_json_atomic

    def read_text(self, relative: str) -> str:
        """The text that was written.  ArtifactNotFound, Damaged."""
        content = self.file(relative).read_bytes()
        if relative.endswith(".json") and is_sealed(content):
            return unseal(content, name=relative)
        return content.decode()

    def read_json(self, relative: str) -> Any:
        """ArtifactNotFound, Damaged."""
        try:
            return json.loads(self.read_text(relative))
        except ValueError as error:
            raise Damaged(f"{relative} is damaged: it is no JSON ({error}).") from error

    def append_log(self, name: str, lines: Iterable[str]) -> None:
        """Adds lines to `logs/<name>.log`.  What cannot be written ends no job, and goes to this process's log."""
        text = "".join(f"{line}\n" for line in lines)
        try:
            append(self.path(f"logs/{name}.log"), text.encode(errors="backslashreplace"))
        except Exception as error:  # of an object store's client, any
            log.warning("%s: %s", error, text)

    def list(self) -> list[FileInfo]:
        """Every file, by path; half-written ones are left out."""
        return sorted(files_below(self.root), key=lambda info: info.path)

    def remove(self) -> None:
        """Removes every file of the job; repeatable.  OSError where one cannot be removed."""
        remove_tree(self.root)

    def remove_drafts(self) -> None:
        """Removes what killed drivers and workers left half-written, and of what others may be writing what is old."""
        for folder in ("arbitration", "bundle", "groups", "profile", "search"):
            remove_drafts(self.root / folder)
        remove_drafts(self.root, older_than=_OLD_DRAFT_SECONDS)

    def size(self, relative: str) -> int:
        """Bytes of a file; ArtifactNotFound if there is none."""
        return self.info(relative).size

    def info(self, relative: str) -> FileInfo:
        """Size, time and tag of a file; ArtifactNotFound if there is none."""
        return describe(self.file(relative), relative)

    def read_range(self, relative: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes [start, start + length), or to the end; none after the end."""
        size = self.size(relative)
        stop = size if length is None else min(size, start + length)
        return read_range(self.path(relative), start, stop)

    def file(self, relative: str) -> Path:
        """Where a file lies.  ArtifactNotFound if there is none, or only a link out of the job's folder."""
        path = self.path(relative)
        # a link may have been put there; object stores have none
        inside = is_remote(path) or path.resolve().is_relative_to(self.root.resolve())
        if not inside or not has_file(path):
            raise ArtifactNotFound(f"This job has no file {relative!r:.200} (yet). List the job's artifacts.")
        return path


def _site(relative: str) -> Site:
    if relative.startswith("plans/"):
        return "review" if relative.endswith("-review.json") else "plan"
    return "json"
