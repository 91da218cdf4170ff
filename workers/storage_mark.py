"""What tells a storage from any other folder of its name: a small file in it with a number that no other storage has.

A machine where a shared folder is not mounted has an empty folder of that name, or would make one, and what is written
there nobody else ever finds.  An object store is the same from everywhere and bears no mark.
"""

import socket
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from workers.storage import is_remote, write

MARK = ".cohort-storage"
"""Name of the file."""


class StorageMissing(OSError):
    """This machine sees another folder than the service does, or none."""


@dataclass(frozen=True)
class StorageMark:
    """The mark that a storage bears."""

    place: Path
    number: str

    def check(self) -> None:
        """StorageMissing where this machine does not see that storage."""
        found = require_mark(self.place)
        if found is not None and found != self:
            raise StorageMissing(_told(self.place, "is another one"))


def mark_storage(place: Path) -> StorageMark | None:
    """The mark of a folder, which gets one if it has none; None for an object store."""
    if not is_remote(place) and read_mark(place) is None:
        write(place / MARK, token_hex(16).encode(), "probe")
    return read_mark(place)


def require_mark(place: Path) -> StorageMark | None:
    """The mark that is seen from here; None for an object store.  StorageMissing where none is seen."""
    found = read_mark(place)
    if found is None and not is_remote(place):
        raise StorageMissing(_told(place, "is missing"))
    return found


def read_mark(place: Path) -> StorageMark | None:
    """The mark that is seen from here; None where none is, and for an object store."""
    if is_remote(place):
        return None
    try:
        return StorageMark(place, (place / MARK).read_text())
    except OSError:  # no such folder, a mount that has gone stale, one that is not for us: it is not seen
        return None


def _told(place: Path, what: str) -> str:
    return (
        f"The storage {place} {what} on the machine {socket.gethostname()}. Mount it there as on the others, or take "
        "that machine out of the cluster."
    )
