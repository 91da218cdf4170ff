"""Where data may come from: the one rule for sources, manifest rows, backbones and checkpoints.

Local paths must lie under a configured root after every symbolic link is resolved; remote schemes must be switched on,
and remote locations must lie under a remote root where there are any.
Chained `::` URIs are refused because fsspec would let one of them (`simplecache::file:///etc/...`) step round the rule.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

KNOWN_SCHEMES = ("file", "s3", "gs", "abfs", "hf")
_BUCKETS = ("s3", "gs", "abfs")
"""Schemes in which the service's own files may lie."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class DataRoots:
    """The folders and URI schemes that data may be read from."""

    file_roots: tuple[str, ...]
    """Absolute folders; a relative path in a job is taken from the first of them in which it exists."""
    schemes: tuple[str, ...] = ("file",)
    """Schemes switched on, out of file, s3, gs, abfs, hf."""
    remote_roots: tuple[str, ...] | None = None
    """URIs such as `s3://bucket/team` under which remote locations must lie.  None: anywhere in a scheme that is on."""
    closed: tuple[str, ...] = ()
    """Folders and URIs of the service's own, which nobody reads even where a root holds them (a root inside is one)."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.schemes) - set(KNOWN_SCHEMES)):
            raise ValueError(f"DataRoots: schemes {unknown} are unknown. Choose from {', '.join(KNOWN_SCHEMES)}.")
        if odd := [uri for uri in (*(self.remote_roots or ()), *self.closed) if "://" in uri and not _is_plain(uri)]:
            raise ValueError(f"DataRoots: {odd} are not written plainly. Leave out `.`, `..` and doubled slashes.")
        if relative := [root for root in self.file_roots if not os.path.isabs(root)]:
            raise ValueError(f"DataRoots: file_roots {relative} are relative. Give absolute folders.")

    def check(self, uri: str) -> str:
        """An absolute local path with every link resolved, or the remote URI itself.

        Whether something is there is not asked.  ValueError for anything that lies outside.
        """
        if not uri or "\0" in uri or "::" in uri:
            raise ValueError(f"Location {uri!r} is not one plain path or URI. Empty, NUL and chained `::` are refused.")
        scheme, separator, rest = uri.partition("://")
        scheme = scheme.lower() if separator else "file"
        if scheme not in self.schemes:
            raise ValueError(
                f"Location {uri!r} uses the scheme {scheme!r}; this service reads {', '.join(self.schemes) or 'none'}. "
                "Copy the data there, or have the operator switch the scheme on."
            )
        if scheme != "file":
            location = f"{scheme}://{rest}"
            if not _is_plain(location):
                raise ValueError(
                    f"Location {uri!r} is not written plainly. Name a bucket or repository and a path without `..`, "
                    "`.` and doubled slashes."
                )
            if self.remote_roots is None and scheme in _BUCKETS and not _BUCKET.fullmatch(rest.partition("/")[0]):
                raise ValueError(
                    f"Location {uri!r} names no bucket plainly: small letters, digits, `.`, `_` and `-`. Accounts and "
                    "access points are for the operator to name, as a data root."
                )
            roots = (f"{scheme}:/",) if self.remote_roots is None else self.remote_roots
            if not self._is_open(location, roots):
                told = (
                    "the service's own" if self.remote_roots is None else list(self.remote_roots) or "of folders alone"
                )
                raise ValueError(
                    f"Location {uri!r} is outside the data roots ({told}). Copy the data under a root, or have the "
                    "operator add one."
                )
            return location
        if not separator:
            return self.check_path(uri)
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ValueError(f"Location {uri!r} names a host. Write file:///absolute/path with three slashes.")
        return self.check_path(unquote(parts.path, errors="surrogateescape"))

    def check_path(self, path: str) -> str:
        """The local path with every link resolved, if that is under a root; ValueError otherwise."""
        if "\0" in path:
            raise ValueError(f"Location {path!r} holds a NUL character. Give a plain path.")
        roots = [os.path.realpath(root) for root in self.file_roots] if "file" in self.schemes else []
        # realpath, not Path.resolve: a loop of links must come back as a path (it counts as an unreadable image later).
        candidates = [path] if os.path.isabs(path) else [os.path.join(root, path) for root in roots]
        inside = [real for real in map(os.path.realpath, candidates) if self._is_open(real, roots)]
        if not inside:
            raise ValueError(
                f"Location {printable(path)!r} is outside the data roots {list(self.file_roots)} once links are "
                "resolved. Move the data under a root, or have the operator add one."
            )
        return next((real for real in inside if os.path.lexists(real)), inside[0])

    def _is_open(self, place: str, roots: Sequence[str]) -> bool:
        """Whether the place lies under a root, and under nothing closed that is not around that root."""
        return any(
            _lies_under(place, root)
            and not any(_lies_under(place, closed) and not _lies_under(root, closed) for closed in self.closed)
            for root in roots
        )


def _is_plain(uri: str) -> bool:
    """Whether a remote place has one spelling only: storages take away slashes and dots, and compare what is left."""
    return not {"", ".", ".."} & set(uri.partition("://")[2].removesuffix("/").split("/"))


def _lies_under(place: str, root: str) -> bool:
    root = root.rstrip("/")
    return place == root or place.startswith(f"{root}/")


def printable(path: str) -> str:
    """The path as valid Unicode: bytes that are no UTF-8 become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
