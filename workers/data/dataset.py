"""A task's images as arrays, split and ready to train on.

Loading lists the task, splits it, reads and decodes what the split chose, and splits again without the images that
could not be read, until all that is chosen can be: so a bad image costs a class nothing while it has others.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from workers.data.cache import NUM_THREADS, ImageCache
from workers.data.config import TaskConfig, TaskKind
from workers.data.decoding import UnreadableImage
from workers.data.files import FAULTS_OF_THE_DATA
from workers.data.listing import PARTS, Item, Listing
from workers.data.resizing import Resize
from workers.data.roots import DataRoots
from workers.data.sources import list_task
from workers.data.splits import Parts, sample_items, split_items

NUM_NAMED = 20
"""Unreadable images that are named; the others are counted."""

# Faults of the data that have no class of their own: a loop of links, too long a name, a socket.
_FAULT_CODES = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)


@dataclass(frozen=True)
class ImageSet:
    """The images of one part (train, val or test), in the order of their keys."""

    images: np.ndarray
    """uint8 [images, 3, size, size], memory-mapped and read-only."""
    labels: np.ndarray
    """classification: int64 [images]; multi_label: uint8 [images, classes], one where the class is in the image;
    retrieval: int64 [images], all zero."""
    keys: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...] = ()
    """retrieval: the captions of every image, at least one each; else empty."""


@dataclass(frozen=True)
class TaskData:
    """A task with its three image sets."""

    name: str
    class_names: tuple[str, ...]
    """Empty for retrieval."""
    template: str
    train: ImageSet
    val: ImageSet
    """May be empty."""
    test: ImageSet
    fingerprint: str
    """sha256 over the content of every image used, labels or captions, class names, split and kind."""
    num_unreadable: int
    unreadable: tuple[str, ...]
    """Keys of the first 20 images that could not be read."""
    kind: TaskKind = "classification"


def load_task(
    task: TaskConfig,
    resize: Resize,
    *,
    roots: DataRoots,
    cache_dir: Path,
    sample: Mapping[str, int] | None = None,
    check: Callable[[], None] = lambda: None,
) -> TaskData:
    """Lists, splits and decodes a task; from the cache where that has been done before.

    `sample` (part -> images) takes no more than so many readable images of every part, of as many classes as it can,
    and then the task's budget of unreadable images is left to the caller.  `check` is called with every image that was
    read, so that a long loading can be interrupted (it raises).  ValueError for whatever the user can mend:
    see `list_task` and `split_items`, and more unreadable images than the task's budget allows.
    """
    listing = list_task(task, roots)
    with ImageCache(cache_dir, resize, turn=task.model_dump_json()) as cache:
        parts, contents, reasons = _select(task, listing, cache, sample, check)
        ordered = [item for part in PARTS for item in parts[part]]
        images = cache.pack([contents[item.key] for item in ordered], lambda index: ordered[index].read())
    sets, start = {}, 0
    for part in PARTS:
        items = parts[part]
        end = start + len(items)
        captions = tuple(item.captions for item in items) if task.kind == "retrieval" else ()
        labels = _labels(task.kind, items, len(listing.class_names))
        sets[part] = ImageSet(images[start:end], labels, tuple(item.key for item in items), captions)
        start = end
    return TaskData(
        name=task.name,
        class_names=listing.class_names,
        template=task.template,
        train=sets["train"],
        val=sets["val"],
        test=sets["test"],
        fingerprint=_fingerprint(task.kind, listing.class_names, parts, contents),
        num_unreadable=len(reasons),
        unreadable=tuple(sorted(reasons)[:NUM_NAMED]),
        kind=task.kind,
    )


def _select(
    task: TaskConfig,
    listing: Listing,
    cache: ImageCache,
    sample: Mapping[str, int] | None,
    check: Callable[[], None],
) -> tuple[Parts, dict[str, bytes], dict[str, str]]:
    """The split over readable images, the content hash of each by key, and why the others could not be read."""
    contents: dict[str, bytes] = {}
    reasons: dict[str, str] = {}
    pool = ThreadPoolExecutor(NUM_THREADS)
    try:
        while True:
            parts = split_items(task, listing, unreadable=reasons)
            if sample is not None:
                parts = {part: sample_items(parts[part], sample[part]) for part in PARTS}
            fresh = [item for part in PARTS for item in parts[part] if item.key not in contents]
            if not fresh:
                return parts, contents, reasons
            for item, outcome in zip(fresh, pool.map(partial(_read, cache), fresh), strict=True):
                check()
                if isinstance(outcome, bytes):
                    contents[item.key] = outcome
                else:
                    reasons[item.key] = outcome
            if sample is None:
                _check_budget(task, len(contents) + len(reasons), reasons)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted loading reads no further


def _read(cache: ImageCache, item: Item) -> bytes | str:
    """The image's content hash, or in words why there is none."""
    try:
        encoded = item.read()
    except OSError as error:
        if isinstance(error, FAULTS_OF_THE_DATA) or error.errno in _FAULT_CODES:
            return error.strerror or str(error)
        raise  # a disk or network that fails must stop the load, not thin the data
    except UnreadableImage as error:
        return str(error)
    try:
        return cache.add(encoded)
    except UnreadableImage as error:
        return str(error)


def _check_budget(task: TaskConfig, tried: int, reasons: Mapping[str, str]) -> None:
    if len(reasons) > task.bad_image_budget * tried:
        named = "; ".join(f"{key!r} ({reasons[key]})" for key in sorted(reasons)[:NUM_NAMED])
        raise ValueError(
            f"Task {task.name!r}: {len(reasons)} of {tried} images cannot be read, more than bad_image_budget="
            f"{task.bad_image_budget} allows: {named}. Replace or remove them, or raise the budget."
        )


def _labels(kind: TaskKind, items: Sequence[Item], num_classes: int) -> np.ndarray:
    if kind != "multi_label":
        return np.array([item.label for item in items], dtype=np.int64)
    labels = np.zeros((len(items), num_classes), dtype=np.uint8)
    for row, item in enumerate(items):
        labels[row, list(item.labels)] = 1
    return labels


def _fingerprint(kind: TaskKind, class_names: tuple[str, ...], parts: Parts, contents: Mapping[str, bytes]) -> str:
    head = class_names if kind == "classification" else (kind, class_names)
    digest = hashlib.sha256(json.dumps(head).encode())
    for part in PARTS:
        digest.update(f"\n{part} {len(parts[part])}\n".encode())
        for item in parts[part]:
            digest.update(contents[item.key] + _answer(kind, item))
    return digest.hexdigest()


def _answer(kind: TaskKind, item: Item) -> bytes:
    """What the data says about one image, so that different answers never have the same bytes."""
    match kind:
        case "classification":
            return item.label.to_bytes(8, "little")
        case "multi_label":
            return json.dumps(item.labels).encode() + b"\n"
        case "retrieval":
            return json.dumps(item.captions).encode() + b"\n"
