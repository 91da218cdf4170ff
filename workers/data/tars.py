"""What is in a tar file that comes from outside: names and places of its members; nothing is unpacked.

The walk over the headers is our own, on `tarfile`'s reading of a single one.  `TarFile` itself takes a damaged header
for the end of the file, a length in a header for so much to read at once, and (before Python 3.11.14, 3.12.12 and
3.13.6) a negative size for a way back.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_MAX_HEADER_BYTES = 64 * 1024
_BLOCK = tarfile.BLOCKSIZE
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_ASIDE = (tarfile.DIRTYPE, tarfile.XGLTYPE)
_ABOUT_THE_NEXT = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)


@dataclass(frozen=True)
class Member:
    """A regular file in a tar file."""

    name: str
    """Relative, with `/` and no `..`; bytes that are no UTF-8 are surrogates."""
    start: int
    """Its first byte in the tar file."""
    size: int


def list_members(file: BinaryIO) -> Iterator[Member]:
    """The regular files in a plain tar file, in their order; `file` may be read elsewhere in between.

    ValueError, with the byte, for a file that is no tar file, is damaged or ends too early; for links, devices and
    sparse files; and for names that lead out of it.
    """
    end = file.seek(0, os.SEEK_END)
    place, told = 0, {}
    while True:
        file.seek(place)
        where = f"at byte {place}"
        block = file.read(_BLOCK)
        if block == bytes(_BLOCK):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ValueError(f"{where}: {error}; a plain tar file goes on or ends with a block of zeros") from error
        start, size = place + _BLOCK, told.get("size", header.size)
        if not 0 <= size <= end - start:
            raise ValueError(f"{where}: a member of {size} bytes, but {end - start} are left")
        place = start + -(-size // _BLOCK) * _BLOCK
        if header.type in _ABOUT_THE_NEXT:
            if size > _MAX_HEADER_BYTES:
                raise ValueError(f"{where}: a header of {size} bytes, more than {_MAX_HEADER_BYTES}")
            told |= _about_the_next(header.type, file.read(size), where)
            continue
        if header.type not in (*_FILES, *_ASIDE):
            raise ValueError(f"{where}: {header.name!r} is a link, a device or a sparse file. Pack regular files")
        if header.type in _FILES:
            yield Member(_inside(told.get("path", header.name), where), start, size)
        told = {}


def _about_the_next(kind: bytes, content: bytes, where: str) -> dict:
    """`path` and `size`, as far as a long name or a pax header gives them."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    told = {}
    while content.strip(b"\0"):  # records `LENGTH KEY=VALUE\n`, where the length is that of the whole record
        digits = content.partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        record, content = content[:length], content[length:]
        if len(record) < length or not record.endswith(b"\n"):
            raise ValueError(f"{where}: a damaged pax header")
        key, _, value = record[len(digits) + 1 : -1].partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise ValueError(f"{where}: a sparse file. Pack regular files")
        if key == b"path":
            told["path"] = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            told["size"] = int(value) if value.isdigit() and len(value) < 20 else -1
    return told


def _inside(name: str, where: str) -> str:
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise ValueError(f"{where}: the name {name!r} leads out of the tar file. Pack with relative names")
    return name.removeprefix("./")
