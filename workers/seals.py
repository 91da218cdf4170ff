"""Files that tell the sha256 of their own content, so that a reader finds out about the first bit that is wrong.

A sealed JSON object begins with a key `sha256`, which is of the text without that key: it stays JSON for everybody.
Being one file, it is never half old and half new, as a file and its sum beside it can be.
"""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from workers.storage import Site, write

_BEGIN = b'{"sha256": "'
_END = b'", '


class Damaged(OSError):
    """A file that is not what was written: its sha256 is another one, or it has no end."""


def seal(text: str) -> bytes:
    """A JSON object's text with its seal."""
    content = text.encode()
    assert content.startswith(b"{") and len(content) > 2, "an object with a key is sealed"
    return _seal_of(content) + content[1:]


def is_sealed(content: bytes) -> bool:
    """Whether it begins with a seal, or with a damaged one; files of older versions do not."""
    begin, digest = content[: len(_BEGIN)], content[len(_BEGIN) : len(_BEGIN) + 64]
    return begin == _BEGIN or re.fullmatch(b"[0-9a-f]{64}", digest) is not None


def unseal(content: bytes, *, name: object) -> str:
    """The text that was sealed.  Damaged, with the file's `name`."""
    size = len(_BEGIN) + 64 + len(_END)
    body = b"{" + content[size:]
    if content[:size] != _seal_of(body):
        raise Damaged(f"{name} is damaged: its sha256 is not that of its content.")
    return body.decode()


def write_sealed(place: Path, value: Mapping[str, Any], site: Site) -> None:
    """A JSON object, sealed; NaN is refused."""
    write(place, seal(json.dumps(value, allow_nan=False)), site)


def read_sealed(place: Path) -> dict[str, Any]:
    """FileNotFoundError, Damaged."""
    return json.loads(unseal(place.read_bytes(), name=place))


def _seal_of(body: bytes) -> bytes:
    return _BEGIN + sha256(body).hexdigest().encode() + _END
