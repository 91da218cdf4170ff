"""Files of jobs on whatever storage there is, a folder (NFS included) or an object store, by one set of calls.

A place is a pathlib path, or a `UPath`, which has the same interface and stands in for one.  A file is written whole
or not at all: into a draft beside it that takes its name once it is on disk, or by one PUT, which is an object store's
commit, since it has no rename.  Torch-free.
"""

import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, cast, get_args

from upath import UPath

from workers import faults

SCHEMES = ("file", "s3", "gs", "abfs")
"""Where storage may lie."""
DRAFT = ".draft-"
"""How the name of a file begins that is not whole yet."""
Site = Literal[
    "bundle",
    "checkpoint",
    "commit",
    "file",
    "json",
    "learned",
    "log",
    "manifest",
    "measurement",
    "pack",
    "plan",
    "probe",
    "report",
    "result",
    "review",
    "signatures",
    "snapshot",
    "text_features",
    "trial",
    "validation",
]
WRITES: tuple[str, ...] = tuple(f"write.{site}" for site in get_args(Site))
"""The fault points of everything that is written, by what it is; each is passed halfway through its file."""
_PROBE = ".probe"
_ADVICE = {
    errno.ENOSPC: "Free some space there, then retry the job.",
    errno.EDQUOT: "Raise the quota or free some space there, then retry the job.",
    errno.EFBIG: "Allow larger files there, then retry the job.",
    errno.EACCES: "Let the service write there, then retry the job.",
    errno.EPERM: "Let the service write there, then retry the job.",
    errno.EROFS: "Mount it for writing, then retry the job.",
}


@dataclass(frozen=True)
class FileInfo:
    """What a listing tells of a file."""

    path: str
    """Relative to the folder that was listed, with forward slashes."""
    size: int
    """Bytes."""
    modified_at: datetime
    tag: str
    """Another one as soon as the content is another one."""


def open_place(uri: str | Path, options: Mapping[str, Any] | None = None) -> Path:
    """The folder, or the place that a URI names; `options` are fsspec's, credentials among them.

    ValueError for a scheme that storage cannot have here.
    """
    if not isinstance(uri, str):
        return uri
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return Path(uri.removeprefix("file://")).expanduser()
    if scheme not in SCHEMES or "::" in uri or not rest.strip("/") or ".." in rest.split("/"):
        raise ValueError(f"storage={uri!r}: expected a folder, or one URI of a bucket and a path: {_examples()}.")
    try:
        # Others write there as well, so no listing is kept.
        place = UPath(uri, **{"use_listings_cache": False, **(options or {})})
        place.fs  # noqa: B018 - made now, so that what is missing is told now
    except ImportError as error:
        raise ValueError(f"storage={uri!r} needs a package that is missing: {error}. Install that package.") from error
    return cast(Path, place)


def make_folder(place: Path) -> None:
    """Makes a folder; a place in an object store needs none, but a bucket that somebody has made."""
    if not is_remote(place):
        place.mkdir(parents=True, exist_ok=True)


def is_remote(place: Path) -> bool:
    """Whether it lies in an object store."""
    return not isinstance(place, Path)


def write(place: Path, content: bytes, site: Site = "file") -> None:
    """The file is there whole or not at all, and stays so through a power cut.  Its mode is a new file's.

    OSError says what could not be written and what to do; nothing is left of the attempt.
    """
    with writing(place):
        if is_remote(place):
            faults.point(f"write.{site}")
            _filesystem(place).pipe_file(_key(place), content)
        else:
            _write_local(place, content, site)


def append(place: Path, content: bytes) -> None:
    """Adds to a log.  An object store's object is written anew, so a log has one writer."""
    with writing(place):
        if is_remote(place):
            faults.point("write.log")
            before = place.read_bytes() if has_file(place) else b""
            _filesystem(place).pipe_file(_key(place), before + content)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("ab") as file:
                faults.point("write.log")
                file.write(content)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """An OSError within says that the place could not be written and what to do; one without a number of the system's
    stays (names that cannot be resolved have numbers of their own)."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in errno.errorcode:
            raise
        advice = _ADVICE.get(error.errno, "See to the storage, then retry the job.")
        told = f"{place} could not be written: {error.strerror or error}. {advice}"
        raise OSError(error.errno, told) from error


def move(source: Path, target: Path, site: Site) -> None:
    """The source under the target's name.  A kill in between leaves both."""
    write(target, source.read_bytes(), site)
    source.unlink()


def remove_tree(folder: Path) -> None:
    """Removes a folder with all that is in it; repeatable.  OSError where something cannot be removed."""
    if is_remote(folder):
        with suppress(FileNotFoundError):
            _filesystem(folder).rm(_key(folder), recursive=True)
    elif folder.exists():
        shutil.rmtree(folder)


def remove_drafts(folder: Path, older_than: float = 0.0) -> None:
    """Removes what killed writers left below a folder, if it is so many seconds old; 0 where nobody else writes."""
    if not is_remote(folder):
        for draft in folder.rglob(f"{DRAFT}*"):
            with suppress(FileNotFoundError):
                if not older_than or time.time() - draft.stat().st_mtime > older_than:
                    draft.unlink()


def has_file(place: Path) -> bool:
    """Whether a file is there.  OSError where the storage does not tell: that is no answer."""
    if not is_remote(place):
        return place.is_file()
    try:
        describe(place)
    except FileNotFoundError:
        return False
    return True


def describe(place: Path, path: str = "") -> FileInfo:
    """Size, time and tag of one file.  FileNotFoundError."""
    if is_remote(place):
        return _remote_info(path, _filesystem(place).info(_key(place)))
    return _local_info(path, place.stat())


def files_below(folder: Path) -> Iterator[FileInfo]:
    """Every file in no order, without drafts and links."""
    if is_remote(folder):
        root = _key(folder).rstrip("/") + "/"
        for key, found in _filesystem(folder).find(root, detail=True).items():
            yield _remote_info(key.removeprefix(root), found)
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if name.startswith(DRAFT) or path.is_symlink():
                continue
            with suppress(FileNotFoundError):  # replaced between the listing and the look
                yield _local_info(path.relative_to(folder).as_posix(), path.stat())


def read_range(place: Path, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file."""
    if start >= stop:
        return b""
    if is_remote(place):
        return _filesystem(place).cat_file(_key(place), start=start, end=stop)
    with place.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def problem(place: Path) -> str | None:
    """Why nothing can be written there, in words; None where it can."""
    if not is_remote(place) and not place.is_dir():
        return f"The storage folder {place} is missing."
    try:
        write(place / _PROBE, b"written to see whether it can be\n", "probe")
    except Exception as error:  # of an object store's client, any
        return f"The storage {place} cannot be written: {error}"
    return None


def _write_local(place: Path, content: bytes, site: Site) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f"{DRAFT}{token_hex(8)}")
    half = len(content) // 2
    try:
        with draft.open("xb") as file:  # not tempfile: its files are their owner's alone, whatever the umask
            file.write(memoryview(content)[:half])
            faults.point(f"write.{site}")
            file.write(memoryview(content)[half:])
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, place)
    except Exception:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _filesystem(place: Path) -> Any:
    return cast(Any, place).fs


def _key(place: Path) -> str:
    return cast(Any, place).path


def _local_info(path: str, status: os.stat_result) -> FileInfo:
    tag = f"{status.st_mtime_ns:x}-{status.st_size:x}"  # files are replaced, never changed in place
    return FileInfo(path, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), tag)


def _remote_info(path: str, found: Mapping[str, Any]) -> FileInfo:
    if found["type"] != "file":
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), found["name"])
    time = found.get("LastModified") or found.get("last_modified") or found.get("updated") or found.get("mtime")
    told = time if isinstance(time, datetime) else datetime.fromisoformat(str(time))
    modified = told.astimezone(UTC)  # each store has a zone class of its own
    tag = str(found.get("ETag") or found.get("etag") or f"{modified.timestamp()}-{found['size']}")
    return FileInfo(path, found["size"], modified, tag.strip('"'))


def _examples() -> str:
    return ", ".join(f"{scheme}://bucket/cohort" for scheme in SCHEMES if scheme != "file")
