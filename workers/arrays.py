"""Arrays on storage: an npz file that tells the sha256 of its own content in the comment of its archive."""

from collections.abc import Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np

from workers.seals import Damaged
from workers.storage import Site, write

_COMMENT = 64
_LENGTH = _COMMENT.to_bytes(2, "little")
"""The end of a zip archive with a comment of that many bytes; without one it is two zeros."""


def write_arrays(place: Path, arrays: Mapping[str, np.ndarray], site: Site) -> None:
    """The file is there whole or not at all; nothing in it is pickled."""
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    body = buffer.getvalue()
    write(place, b"".join((body[:-2], _LENGTH, sha256(body).hexdigest().encode())), site)


def read_arrays(place: Path) -> dict[str, np.ndarray]:
    """Every array by its name.  FileNotFoundError; Damaged for what is not what was written."""
    content = place.read_bytes()
    if content[-2:] != b"\0\0":  # files of older versions have no seal, and end so
        digest = sha256(content[: -_COMMENT - 2])
        digest.update(b"\0\0")
        if content[-_COMMENT - 2 :] != _LENGTH + digest.hexdigest().encode():
            raise Damaged(f"{place} is damaged: its sha256 is not that of its content.")
    try:
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # of a zip archive and of its arrays, any
        raise Damaged(f"{place} is damaged: {error}") from error
