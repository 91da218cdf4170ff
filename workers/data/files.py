"""Reading bytes and listing folders, local or remote, never outside the data roots.

A location is what `DataRoots.check` returns: an absolute local path, or a URI with a scheme.
"""

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import fsspec
from fsspec.spec import AbstractFileSystem

from workers.data.decoding import SUFFIXES, UnreadableImage
from workers.data.listing import Item
from workers.data.roots import DataRoots, printable

MAX_BYTES = 2**30
"""A larger local file is not read, be it an image or a manifest."""

FAULTS_OF_THE_DATA = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""What reading a file that is not there raises.  Other OSErrors are faults of a disk or a network."""


def list_folder(location: str, roots: DataRoots) -> dict[str, list[Item]] | None:
    """Images of every sub-folder by the sub-folder's name; None if there is no such folder.

    Images are known by their suffix, at any depth; hidden files and folders are left out.  The items' label and split
    are not set yet (0 and None).
    """
    if "://" in location:
        return _list_remote(location, roots)
    if not os.path.isdir(location):
        return None
    folders: dict[str, list[Item]] = {}
    seen = {os.path.realpath(location)}
    for name in sorted(os.listdir(location)):
        path = os.path.join(location, name)
        if not name.startswith(".") and os.path.isdir(path):
            folders[name] = []
            for file in _walk(path, seen, roots, is_image_name):
                folders[name].append(Item(_key(file, location), 0, None, partial(read_local, file, roots)))
    return folders


def find_files(location: str, roots: DataRoots, wanted: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Files at any depth of a folder whose name is wanted: key and location, sorted; none if there is no such folder.

    Hidden files and folders are left out.
    """
    if "://" not in location:
        found = _walk(location, set(), roots, wanted) if os.path.isdir(location) else []
        return sorted((_key(file, location), file) for file in found)
    filesystem, root = _open_filesystem(location)
    keys = {path: path.removeprefix(root.rstrip("/")).lstrip("/") for path in filesystem.find(root)}
    return sorted(
        (key, _allowed(filesystem.unstrip_protocol(path), location, roots))
        for path, key in keys.items()
        if wanted(posixpath.basename(key)) and not is_hidden(key)
    )


def reader(location: str, roots: DataRoots) -> partial[bytes]:
    """A call that reads the whole file."""
    if "://" in location:
        return partial(_read_remote, *_open_filesystem(location))
    return partial(read_local, location, roots)


def read_local(path: str, roots: DataRoots) -> bytes:
    """The file's bytes."""
    with open_local(path, roots) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise UnreadableImage(f"{size} bytes exceed the limit of {MAX_BYTES}")
        return file.read()


def read_range(location: str, roots: DataRoots, start: int, size: int) -> bytes:
    """So many bytes of a file from `start` on; fewer if it ends before."""
    if "://" in location:
        filesystem, path = _open_filesystem(location)
        content = filesystem.cat_file(path, start=start, end=start + size)
        assert isinstance(content, bytes)
        return content
    with open_local(location, roots) as file:
        file.seek(start)
        return file.read(size)


@contextmanager
def open_file(location: str, roots: DataRoots) -> Iterator[BinaryIO]:
    """The file, to read and to seek in."""
    if "://" in location:
        filesystem, path = _open_filesystem(location)
        with filesystem.open(path, "rb") as file:
            yield cast(BinaryIO, file)
    else:
        with open_local(location, roots) as file:
            yield file


def open_local(path: str, roots: DataRoots) -> BinaryIO:
    """A regular file.  The rule is checked again: a link may have been changed since the listing."""
    file = open(roots.check_path(path), "rb", opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableImage("not a regular file")
    return file


def is_image_name(name: str) -> bool:
    """Whether the name has the suffix of a format that can be opened, and is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_hidden(key: str) -> bool:
    """Whether a file, or a folder on the way to it, is hidden."""
    return any(part.startswith(".") for part in key.split("/"))


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe among the images must not hang the reader.
    return os.open(path, flags | os.O_NONBLOCK)


def _key(file: str, folder: str) -> str:
    return printable(os.path.relpath(file, folder)).replace(os.sep, "/")


def _walk(folder: str, seen: set[str], roots: DataRoots, wanted: Callable[[str], bool]) -> list[str]:
    """Paths of wanted names under the folder, sorted.  Every real folder is entered once, so links cannot loop."""
    real = roots.check_path(folder)
    if real in seen:
        return []
    seen.add(real)
    files = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            roots.check_path(entry.path)
        # os.path.isdir, not entry.is_dir: a loop of links is no folder, and no error here either.
        if os.path.isdir(entry.path):
            files += _walk(entry.path, seen, roots, wanted)
        elif wanted(entry.name):
            files.append(entry.path)
    return files


def _list_remote(location: str, roots: DataRoots) -> dict[str, list[Item]] | None:
    filesystem, root = _open_filesystem(location)
    root = root.rstrip("/")
    if not filesystem.isdir(root):
        return None
    folders: dict[str, list[Item]] = {}
    for path in sorted(filesystem.find(root)):
        key = path.removeprefix(root).lstrip("/")
        parts = key.split("/")
        if len(parts) > 1 and is_image_name(key) and not is_hidden(key):
            _allowed(filesystem.unstrip_protocol(path), location, roots)
            folders.setdefault(parts[0], []).append(Item(key, 0, None, partial(_read_remote, filesystem, path)))
    return folders


def _allowed(uri: str, folder: str, roots: DataRoots) -> str:
    """A file found in a folder, which may hold what nobody reads.  ValueError, which does not name the file."""
    try:
        return roots.check(uri)
    except ValueError:
        raise ValueError(
            f"Folder {folder!r} holds files that no job may read, or whose names are not plain. Name the folder of "
            "your own data in it."
        ) from None


def _open_filesystem(location: str) -> tuple[AbstractFileSystem, str]:
    try:
        filesystem, path = fsspec.url_to_fs(location)
    except ImportError as error:
        raise ValueError(f"Location {location!r} cannot be read here: {error}. Install that package.") from error
    return filesystem, path


def _read_remote(filesystem: AbstractFileSystem, path: str) -> bytes:
    content = filesystem.cat_file(path)
    assert isinstance(content, bytes)
    return content
