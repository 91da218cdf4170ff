"""Listing a task: from class folders, a manifest or the demo world to named classes and images to read.

Nothing is decoded and no image is opened, so the control plane can call this to validate a job.  Labels, columns,
classes and locations are checked here; whether images can be read, and whether there are enough, is for `load_task`.
"""

import os
import posixpath
from dataclasses import replace

from workers.data.classes import name_classes, sort_labels
from workers.data.config import DemoSource, ExplicitSplit, FolderSource, ManifestSource, TaskConfig
from workers.data.decoding import UnreadableImage
from workers.data.files import FAULTS_OF_THE_DATA, list_folder, reader
from workers.data.listing import PARTS, Item, Listing
from workers.data.manifests import read_rows
from workers.data.roots import DataRoots, printable
from workers.demo.tasks import demo_listing

ItemsOfLabels = dict[str, list[Item]]


def list_task(task: TaskConfig, roots: DataRoots) -> Listing:
    """The classes and images of a task.

    An explicit split, a manifest's split column and the demo world give items whose split is set.  ValueError for a
    location that is missing or outside the roots, a broken manifest, and classes that are too few, empty or misnamed.
    """
    if isinstance(task.source, DemoSource):
        try:
            listing = demo_listing(task.source.task)
        except ValueError as error:
            raise ValueError(f"Task {task.name!r}: {error}") from error
        return Listing(name_classes(task, listing.class_names), tuple(sorted(listing.items, key=lambda item: item.key)))
    if isinstance(task.split, ExplicitSplit):
        by_label = _read_parts(task, task.source, task.split, roots)
    else:
        by_label = _read(task, task.source, task.source.uri, roots)
    labels = sort_labels(by_label)
    names = name_classes(task, labels)
    if empty := [label for label in labels if not by_label[label]]:
        raise ValueError(
            f"Task {task.name!r}: {len(empty)} of {len(labels)} classes have no image "
            f"({', '.join(map(repr, empty[:20]))}). Add images or remove the class."
        )
    items = [replace(item, label=index) for index, label in enumerate(labels) for item in by_label[label]]
    return Listing(names, tuple(sorted(items, key=lambda item: item.key)))


def _read_parts(
    task: TaskConfig, source: FolderSource | ManifestSource, split: ExplicitSplit, roots: DataRoots
) -> ItemsOfLabels:
    if isinstance(source, ManifestSource) and source.split_column:
        raise ValueError(
            f"Task {task.name!r}: both split_column={source.split_column!r} and separate train and test sources are "
            "given. Keep one of the two."
        )
    uris = {"train": split.train, "val": split.val, "test": split.test}
    merged: ItemsOfLabels = {}
    for part in PARTS:
        if (uri := uris[part]) is None:
            continue
        by_label = _read(task, source, uri, roots)
        if part != "train" and (unknown := sorted(set(by_label) - set(merged))):
            raise ValueError(
                f"Task {task.name!r}: {part} holds classes that train does not ({', '.join(map(repr, unknown[:20]))}). "
                "Add training images for them, or remove them."
            )
        if part == "train" and (empty := sorted(label for label, items in by_label.items() if not items)):
            raise ValueError(
                f"Task {task.name!r}: {len(empty)} of {len(by_label)} classes have no training image "
                f"({', '.join(map(repr, empty[:20]))}). Add images or remove the class."
            )
        for label, items in by_label.items():
            merged.setdefault(label, []).extend(replace(item, key=f"{part}/{item.key}", split=part) for item in items)
    return merged


def _read(task: TaskConfig, source: FolderSource | ManifestSource, uri: str, roots: DataRoots) -> ItemsOfLabels:
    try:
        location = roots.check(uri)
        by_label = list_folder(location, roots) if isinstance(source, FolderSource) else None
    except (ValueError, PermissionError) as error:
        raise ValueError(f"Task {task.name!r}: {error}") from error
    if isinstance(source, ManifestSource):
        return _read_manifest(task, source, uri, location, roots)
    if by_label is None:
        raise ValueError(
            f"Task {task.name!r}: {uri!r} is no folder. Give a folder with one sub-folder per class"
            f"{_roots_hint(uri, roots)}."
        )
    if not by_label:
        raise ValueError(f"Task {task.name!r}: {uri!r} has no sub-folder, so no class. Put images in one per class.")
    return by_label


def _read_manifest(
    task: TaskConfig, source: ManifestSource, uri: str, location: str, roots: DataRoots
) -> ItemsOfLabels:
    try:
        content = reader(location, roots)()
    except (*FAULTS_OF_THE_DATA, UnreadableImage) as error:
        raise ValueError(
            f"Task {task.name!r}: the manifest {uri!r} does not exist or cannot be read. Give a .csv, .jsonl or "
            f".parquet table{_roots_hint(uri, roots)}."
        ) from error
    by_label: ItemsOfLabels = {}
    first_row: dict[str, int] = {}
    for row in read_rows(content, source, name=printable(location), task=task.name):
        where = f"Task {task.name!r}: manifest {uri!r}, row {row.number}"
        key = printable(posixpath.normpath(row.path) if "://" not in row.path else row.path)
        if (first := first_row.setdefault(key, row.number)) != row.number:
            raise ValueError(f"{where} lists {key!r} again (first in row {first}). List every image once.")
        try:
            read = reader(_row_location(row.path, location, roots), roots)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        by_label.setdefault(row.label, []).append(Item(key, 0, row.split, read))
    return by_label


def _row_location(path: str, manifest: str, roots: DataRoots) -> str:
    if "://" in path or os.path.isabs(path):
        return roots.check(path)
    parent = manifest.rpartition("/")[0]
    return roots.check(f"{parent}/{path}") if "://" in manifest else roots.check_path(os.path.join(parent, path))


def _roots_hint(uri: str, roots: DataRoots) -> str:
    relative = "://" not in uri and not os.path.isabs(uri)
    return f"; a relative path is taken from the data roots {list(roots.file_roots)}" if relative else ""
