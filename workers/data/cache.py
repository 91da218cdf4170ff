"""Decoded images on disk: every image is decoded and resized once, and read through a memory map ever after.

A *pack* is one file with the images of one task in order, named by the hash of their contents, in a folder named by
the preprocessing.  Stages and jobs with the same images share it; another selection of images that are known is copied
from the packs that hold them instead of being decoded again.  Every image carries a checksum, so a damaged or short
file is noticed and rebuilt.  A pack appears whole or not at all (temporary file, fsync, rename).
"""

import fcntl
import hashlib
import os
import tempfile
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from workers import faults
from workers.data.decoding import decode_rgb
from workers.data.resizing import Resize, resize_image
from workers.storage import writing

NUM_THREADS = min(8, len(os.sched_getaffinity(0)))
"""Threads that decode or check images; Pillow and zlib let go of the interpreter while they work."""

# N images; a pack is: magic, N, N content hashes, N image checksums, checksum of all that; then the images.
_MAGIC = b"COHORT-PACK-1\n\0\0"
_ENTRY_BYTES = 32 + 4


class ImageCache:
    """The packs of one preprocessing, and the images decoded while it is open.  Enter it with `with`.

    While it is open it holds one of 256 file locks, chosen by `turn`: whoever loads the same thing at the same time
    waits, and then finds the work done.  Different turns may share a lock, so never open one inside another.
    """

    def __init__(self, cache_dir: Path, resize: Resize, *, turn: str):
        self._resize = resize
        self._folder = Path(cache_dir) / "packs" / f"{resize.size}-{resize.interpolation}-{resize.mode}"
        self._lock_path = self._folder / f"{hashlib.sha256(turn.encode()).hexdigest()[:2]}.lock"
        self._image_bytes = 3 * resize.size * resize.size
        self._rows: dict[bytes, int] = {}
        """Content -> position in the scratch file."""
        self._packed: dict[bytes, tuple[Path, int, int]] = {}
        """Content -> pack, offset and checksum."""
        self._threads = threading.Lock()

    def __enter__(self) -> "ImageCache":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = open(self._lock_path, "wb")
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        for path in sorted(self._folder.glob("*.pack")):
            self._packed |= {content: (path, offset, checksum) for content, offset, checksum in self._index(path)}
        self._scratch = tempfile.TemporaryFile(dir=self._folder)
        return self

    def __exit__(self, *exception: object) -> None:
        self._scratch.close()
        self._lock_file.close()

    def add(self, encoded: bytes) -> bytes:
        """Makes sure that the image is decoded, and returns its content hash.  UnreadableImage if it cannot be.

        May be called from many threads.
        """
        content = hashlib.sha256(encoded).digest()
        with self._threads:
            known = content in self._rows or content in self._packed
        if not known:
            self._decode(content, encoded)
        return content

    def pack(self, contents: Sequence[bytes], read: Callable[[int], bytes]) -> np.ndarray:
        """The images with these contents, all added before, as a read-only uint8 map [images, 3, size, size].

        `read(i)` gives the encoded bytes again, for an image whose only decoded copy turns out to be damaged.  OSError
        says what could not be written and what to do; nothing is left of the attempt.
        """
        path = self._folder / f"{hashlib.sha256(b''.join(contents)).hexdigest()}.pack"
        if not self._is_sound(path):
            self._find_all(contents, read)
            with writing(path):
                self._write(path, contents)
        shape = (len(contents), 3, self._resize.size, self._resize.size)
        return np.memmap(path, dtype=np.uint8, mode="r", offset=_header_bytes(len(contents)), shape=shape)

    def _decode(self, content: bytes, encoded: bytes) -> None:
        pixels = resize_image(decode_rgb(encoded), self._resize).tobytes()
        with self._threads:
            row = self._rows.setdefault(content, len(self._rows))
        # Every content has a place of its own, so threads write side by side; the same content is the same bytes.
        written = 0
        with writing(self._folder):
            while written < len(pixels):
                place = row * self._image_bytes + written
                written += os.pwrite(self._scratch.fileno(), pixels[written:], place)

    def _find(self, content: bytes) -> bytes | None:
        """The decoded image from the scratch file or a pack; None if no sound copy is left."""
        if (row := self._rows.get(content)) is not None:
            return os.pread(self._scratch.fileno(), self._image_bytes, row * self._image_bytes)
        path, offset, checksum = self._packed[content]
        try:
            with open(path, "rb") as file:
                pixels = os.pread(file.fileno(), self._image_bytes, offset)
        except FileNotFoundError:
            return None
        return pixels if zlib.crc32(pixels) == checksum else None

    def _find_all(self, contents: Sequence[bytes], read: Callable[[int], bytes]) -> None:
        """Decodes again what has no sound copy left."""
        for index, content in enumerate(contents):
            if self._find(content) is None:
                encoded = read(index)
                if hashlib.sha256(encoded).digest() != content:
                    raise ValueError("An image changed while its task was being loaded. Load the task again.")
                self._decode(content, encoded)

    def _write(self, path: Path, contents: Sequence[bytes]) -> None:
        # The lock is ours alone, and so is a name made from it: what a killed process left there is overwritten.
        temporary = self._lock_path.with_suffix(".tmp")
        checksums = []
        try:
            with open(temporary, "wb") as file:
                file.seek(_header_bytes(len(contents)))
                for content in contents:
                    pixels = self._find(content)
                    assert pixels is not None
                    checksums.append(zlib.crc32(pixels))
                    file.write(pixels)
                faults.point("write.pack")
                file.seek(0)
                file.write(_header(contents, checksums))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except Exception:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _index(self, path: Path) -> list[tuple[bytes, int, int]]:
        """Content, offset and checksum of every image of a pack; nothing for a file that is no whole pack."""
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                start = file.read(len(_MAGIC) + 8)
                count = int.from_bytes(start[len(_MAGIC) :], "little")
                if size != _header_bytes(count) + count * self._image_bytes or not start.startswith(_MAGIC):
                    return []
                table = file.read(count * _ENTRY_BYTES)
                checksum = int.from_bytes(file.read(4), "little")
        except FileNotFoundError:
            return []
        if checksum != zlib.crc32(start + table):
            return []
        checksums = np.frombuffer(table, dtype="<u4", offset=32 * count).tolist()
        offset = _header_bytes(count)
        return [
            (table[32 * row : 32 * (row + 1)], offset + row * self._image_bytes, checksums[row]) for row in range(count)
        ]

    def _is_sound(self, path: Path) -> bool:
        if not (index := self._index(path)):
            return False
        with open(path, "rb") as file, ThreadPoolExecutor(NUM_THREADS) as pool:
            handle = file.fileno()

            def is_whole(entry: tuple[bytes, int, int]) -> bool:
                return zlib.crc32(os.pread(handle, self._image_bytes, entry[1])) == entry[2]

            return all(pool.map(is_whole, index))


def _header_bytes(count: int) -> int:
    """Length of a pack's header, a whole number of memory pages so that images start on one."""
    return -(-(len(_MAGIC) + 8 + count * _ENTRY_BYTES + 4) // 4096) * 4096


def _header(contents: Sequence[bytes], checksums: Sequence[int]) -> bytes:
    start = _MAGIC + len(contents).to_bytes(8, "little")
    table = b"".join(contents) + np.asarray(checksums, dtype="<u4").tobytes()
    return start + table + zlib.crc32(start + table).to_bytes(4, "little")
