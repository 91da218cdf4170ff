"""Where Ray Train keeps its own notes: beside what is trained, in a folder or an object store."""

from pathlib import Path
from typing import Any, cast

from pyarrow.fs import FSSpecHandler, PyFileSystem

from workers.storage import is_remote


def ray_storage(folder: Path) -> dict[str, Any]:
    """Arguments of Ray's RunConfig."""
    if not is_remote(folder):
        return {"storage_path": str(folder.resolve())}
    place = cast(Any, folder)
    return {"storage_path": place.path, "storage_filesystem": PyFileSystem(FSSpecHandler(place.fs))}
