"""Reading bytes and listing folders, local or remote, never outside the data roots.

A location is what `DataRoots.check` returns: an absolute local path, or a URI with a scheme.
"""

import os
import stat
from functools import partial
from pathlib import PurePosixPath

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
        return _list_remote(location)
    if not os.path.isdir(location):
        return None
    folders: dict[str, list[Item]] = {}
    seen = {os.path.realpath(location)}
    for name in sorted(os.listdir(location)):
        path = os.path.join(location, name)
        if not name.startswith(".") and os.path.isdir(path):
            folders[name] = []
            for file in _walk(path, seen, roots):
                key = printable(os.path.relpath(file, location)).replace(os.sep, "/")
                folders[name].append(Item(key, 0, None, partial(read_local, file, roots)))
    return folders


def reader(location: str, roots: DataRoots) -> partial[bytes]:
    """A call that reads the whole file."""
    if "://" in location:
        return partial(_read_remote, *_open_filesystem(location))
    return partial(read_local, location, roots)


def read_local(path: str, roots: DataRoots) -> bytes:
    """The file's bytes.  The rule is checked again: a link may have been changed since the listing."""
    with open(roots.check_path(path), "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("not a regular file")
        if status.st_size > MAX_BYTES:
            raise UnreadableImage(f"{status.st_size} bytes exceed the limit of {MAX_BYTES}")
        return file.read()


def is_image_name(name: str) -> bool:
    """Whether the name has the suffix of a format that can be opened, and is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe among the images must not hang the reader.
    return os.open(path, flags | os.O_NONBLOCK)


def _walk(folder: str, seen: set[str], roots: DataRoots) -> list[str]:
    """Image paths under the folder, sorted.  Every real folder is entered once, so links cannot loop."""
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
            files += _walk(entry.path, seen, roots)
        elif is_image_name(entry.name):
            files.append(entry.path)
    return files


def _list_remote(location: str) -> dict[str, list[Item]] | None:
    filesystem, root = _open_filesystem(location)
    root = root.rstrip("/")
    if not filesystem.isdir(root):
        return None
    folders: dict[str, list[Item]] = {}
    for path in sorted(filesystem.find(root)):
        key = path.removeprefix(root).lstrip("/")
        parts = key.split("/")
        if len(parts) > 1 and is_image_name(key) and not any(part.startswith(".") for part in parts):
            folders.setdefault(parts[0], []).append(Item(key, 0, None, partial(_read_remote, filesystem, path)))
    return folders


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
