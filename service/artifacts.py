"""The files of one job: where each lies, and how readers and writers keep from seeing half of one.

`spec.json, datasets.json, profile/signatures.npz, plans/<number>.json, groups/<group>/..., logs/<name>.log, bundle/`
under `<storage>/jobs/<job>/`.  What the files mean is known to the stages that write them.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from service.errors import ArtifactNotFound

ARBITRATION = "arbitration.json"
"""Where a job keeps what short training runs said of its groups."""
_DRAFT = ".draft-"


def plan_path(number: int) -> str:
    """Where a job keeps a plan."""
    return f"plans/{number}.json"


def review_path(number: int) -> str:
    """Where a job keeps what was found out about a plan after it was made."""
    return f"plans/{number}-review.json"


@dataclass(frozen=True)
class ArtifactInfo:
    """A file as a listing shows it."""

    path: str
    size: int
    """Bytes."""
    modified_at: datetime


class JobFiles:
    """The folder of one job.  Paths are relative to it, with forward slashes; none leads out of it."""

    def __init__(self, storage_root: str | Path, job_id: str) -> None:
        self.root = Path(storage_root) / "jobs" / job_id

    def path(self, relative: str = "") -> Path:
        """Where a file lies.  ArtifactNotFound for a path that is absolute or leads out of the job's folder."""
        parts = PurePosixPath(relative).parts
        if "\0" in relative or "\\" in relative or relative.startswith("/") or ".." in parts:
            raise ArtifactNotFound(f"{relative!r:.200} is not the path of an artifact. List the job's artifacts.")
        return self.root.joinpath(*parts)

    def exists(self, relative: str) -> bool:
        return self.path(relative).exists()

    def write_text(self, relative: str, text: str) -> Path:
        """Writes all or nothing: whoever reads sees the old file or the new one, also after a power cut."""
        path = self.path(relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{_DRAFT}{uuid.uuid4().hex}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return path

    def write_json_atomic(self, relative: str, value: Any) -> Path:
        """Writes plain data as JSON, all or nothing; NaN is refused."""
        return self.write_text(relative, json.dumps(value, allow_nan=False, indent=1))

    write_json = write_json_atomic

    def read_text(self, relative: str) -> str:
        return self.file(relative).read_text(encoding="utf-8")

    def read_json(self, relative: str) -> Any:
        return json.loads(self.read_text(relative))

    def append_log(self, name: str, lines: Iterable[str]) -> None:
        """Adds lines to `logs/<name>.log`."""
        path = self.path(f"logs/{name}.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{line}\n" for line in lines)

    def list(self) -> list[ArtifactInfo]:
        """Every file, by path; half-written ones are left out."""
        found = []
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                if name.startswith(_DRAFT) or path.is_symlink():
                    continue
                try:
                    status = path.stat()
                except FileNotFoundError:  # a checkpoint was replaced between the listing and the look
                    continue
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                found.append(ArtifactInfo(path.relative_to(self.root).as_posix(), status.st_size, modified))
        return sorted(found, key=lambda info: info.path)

    def remove(self) -> None:
        """Removes every file of the job; repeatable.  OSError where one cannot be removed."""
        if self.root.exists():
            shutil.rmtree(self.root)

    def size(self, relative: str) -> int:
        """Bytes of a file; ArtifactNotFound if there is none."""
        return self.file(relative).stat().st_size

    def open(self, relative: str, start: int = 0) -> BinaryIO:
        """The file, opened for reading at byte `start`; ArtifactNotFound if there is none."""
        file = self.file(relative).open("rb")
        file.seek(start)
        return file

    def read_range(self, relative: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes [start, start + length), or to the end."""
        with self.open(relative, start) as file:
            return file.read(-1 if length is None else length)

    def file(self, relative: str) -> Path:
        """Where a file lies.  ArtifactNotFound if there is none, or only a link out of the job's folder."""
        path = self.path(relative)
        inside = path.resolve().is_relative_to(self.root.resolve())  # a link may have been put there
        if not inside or not path.is_file():
            raise ArtifactNotFound(f"This job has no file {relative!r:.200} (yet). List the job's artifacts.")
        return path
