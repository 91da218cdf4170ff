"""What a task's data looks like: images per class, which could not be read, and some of the images as they are.

Nothing is decoded here: bytes go to the browser, which draws strangers' images behind walls of its own.
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from service.artifacts import JobFiles
from service.errors import ArtifactNotFound, SpecError
from service.measurements import DATASETS
from service.spec import JobSpec
from service.wire_estimate import Forecast
from workers.data.config import TaskConfig
from workers.data.decoding import UnreadableImage
from workers.data.listing import PARTS, Listing
from workers.data.roots import DataRoots
from workers.data.sources import list_task

NUM_SHOWN = 12
MAX_IMAGE_BYTES = 8 * 2**20
_LISTED_FOR = 60  # seconds: a page asks for a dozen images of one listing
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_reading = threading.Semaphore(2)  # a source may hold far larger files than are shown


@dataclass(frozen=True)
class TaskSummary:
    """What is known of a task's data."""

    name: str
    kind: str
    num_classes: int | None
    num_train: int | None
    num_val: int | None
    num_test: int | None
    num_unreadable: int | None
    unreadable: list[str]
    """Keys of the first 20."""


@dataclass(frozen=True)
class ClassRow:
    """One class."""

    name: str
    counts: tuple[int, ...]
    """Images by part, or in all where the source has no parts of its own."""


@dataclass(frozen=True)
class TaskLook:
    """A task's source, as it is now."""

    parts: tuple[str, ...]
    """What is counted: train, val, test, or `images`."""
    classes: list[ClassRow]
    """Empty for a retrieval task."""
    num_images: int
    num_captions: int
    samples: list[tuple[str, str]]
    """Keys of some images, each with its classes or first caption."""


def summaries(spec: JobSpec, files: JobFiles, forecast: Forecast | None) -> list[TaskSummary]:
    """Of every task: what validation found, or an estimate's sample, or nothing yet."""
    found: dict[str, dict[str, Any]] = {}
    if files.exists(DATASETS):
        found = {task["name"]: task for task in files.read_json(DATASETS)["tasks"]}
    elif forecast is not None:
        found = {sample.task: sample.model_dump() for sample in forecast.tasks}
    rows = []
    for task in spec.tasks:
        known = found.get(task.name, {})
        numbers = {name: known.get(name) for name in ("num_train", "num_val", "num_test", "num_unreadable")}
        classes = len(known["class_names"]) if "class_names" in known else None
        rows.append(TaskSummary(task.name, task.kind, classes, **numbers, unreadable=known.get("unreadable", [])))
    return rows


def look(task: TaskConfig, roots: DataRoots) -> TaskLook:
    """Lists a task's source.  SpecError where it cannot be listed."""
    listing = _listing(task, roots)
    parts = tuple(part for part in PARTS if any(item.split == part for item in listing.items)) or ("images",)
    counts: Counter[tuple[int, str]] = Counter()
    samples: dict[tuple[int, ...], tuple[str, str]] = {}
    for item in listing.items:
        own = item.labels if task.kind == "multi_label" else (item.label,)
        counts.update((label, item.split or "images") for label in own)
        told = ", ".join(listing.class_names[label] for label in own) if listing.class_names else item.captions[0]
        samples.setdefault(own if listing.class_names else (len(samples),), (item.key, told))
    return TaskLook(
        parts=parts,
        classes=[
            ClassRow(name, tuple(counts[label, part] for part in parts))
            for label, name in enumerate(listing.class_names)
        ],
        num_images=len(listing.items),
        num_captions=sum(len(item.captions) for item in listing.items),
        samples=list(samples.values())[:NUM_SHOWN],
    )


def image(task: TaskConfig, roots: DataRoots, key: str) -> tuple[bytes, str]:
    """An image of a task as it is kept, and its media type.  ArtifactNotFound for what no browser would show."""
    found = next((item for item in _listing(task, roots).items if item.key == key), None)
    if found is None:
        raise ArtifactNotFound(f"Task {task.name!r} has no image {key!r:.200}. Look at the task again.")
    try:
        with _reading:
            content = found.read()
    except (OSError, UnreadableImage) as error:
        raise ArtifactNotFound(f"Image {key!r:.200} cannot be read: {error}.") from error
    kind = next((kind for start, kind in _SIGNATURES if content.startswith(start)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None or len(content) > MAX_IMAGE_BYTES:
        raise ArtifactNotFound(
            f"Image {key!r:.200} is not shown: {len(content)} bytes of {kind or 'a format that browsers do not draw'}. "
            f"PNG, JPEG, GIF, BMP and WebP of at most {MAX_IMAGE_BYTES} bytes are."
        )
    return content, kind


def _listing(task: TaskConfig, roots: DataRoots) -> Listing:
    try:
        return _listed(task.model_dump_json(), roots, int(time.monotonic() / _LISTED_FOR))
    except ValueError as error:
        raise SpecError(str(error)) from error


@lru_cache(maxsize=4)
def _listed(task: str, roots: DataRoots, _minute: int) -> Listing:
    return list_task(TaskConfig.model_validate_json(task), roots)
