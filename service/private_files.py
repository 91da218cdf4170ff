"""Files that only their owner can read: settings, keys, secrets."""

import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def private_secret(path: Path) -> str:
    """The secret in a file that only its owner can read; made at the first call, one for all that call at once."""
    if not path.exists():
        draft = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
        write_private(draft, secrets.token_hex(32))
        with suppress(FileExistsError):  # somebody was faster
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()


def read_private(path: Path) -> dict[str, Any]:
    """The JSON object in a file.  ValueError if others can read it, or it holds none."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ValueError(f"{path} has mode {mode:04o}: others can read credentials in it. Run `chmod 600 {path}`.")
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}. Expected an object of settings.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}. Expected an object of settings.")
    return values
