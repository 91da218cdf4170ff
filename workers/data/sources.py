"""Listing a task: from folders, a manifest, a dataset, shards or the demo world to named classes and images to read.

Nothing is decoded and no image is opened, so the control plane can call this to validate a job.  Labels, columns,
classes and locations are checked here; whether images can be read, and whether there are enough, is for `load_task`.
"""

import os
import posixpath
from dataclasses import replace

from workers.data.classes import name_classes, sort_labels
from workers.data.config import (
    DemoSource,
    ExplicitSplit,
    FolderSource,
    HuggingFaceSource,
    ManifestSource,
    TaskConfig,
    WebDatasetSource,
)
from workers.data.decoding import UnreadableImage
from workers.data.files import FAULTS_OF_THE_DATA, list_folder, reader
from workers.data.huggingface import read_dataset
from workers.data.listing import PARTS, Found, Item, Listing
from workers.data.manifests import Row, read_rows
from workers.data.roots import DataRoots, printable
from workers.data.webdataset import read_shards
from workers.demo.tasks import demo_kind, demo_listing

_Located = FolderSource | ManifestSource | HuggingFaceSource | WebDatasetSource
"""Sources that read from a place."""


def list_task(task: TaskConfig, roots: DataRoots) -> Listing:
    """The classes and images of a task.

    An explicit split, a manifest's split column and the demo world give items whose split is set.  ValueError for a
    location that is missing or outside the roots, a broken manifest, classes that are too few, empty or misnamed, and
    a demo task of another kind.
    """
    if isinstance(task.source, DemoSource):
        return _list_demo(task, task.source)
    if isinstance(task.split, ExplicitSplit):
        found = _read_parts(task, task.source, task.split, roots)
    else:
        found = _read(task, task.source, task.source.uri, roots)
    labels = sort_labels(found.labels)
    names = () if task.kind == "retrieval" else name_classes(task, labels)
    if empty := _empty(found):
        raise ValueError(
            f"Task {task.name!r}: {len(empty)} of {len(labels)} classes have no image "
            f"({', '.join(map(repr, empty[:20]))}). Add images or remove the class."
        )
    index = {label: position for position, label in enumerate(labels)}
    items = []
    for own, item in found.images:
        match task.kind:
            case "classification":
                items.append(replace(item, label=index[own[0]]))
            case "multi_label":
                items.append(replace(item, labels=tuple(sorted(index[label] for label in own))))
            case "retrieval":
                items.append(item)
    return Listing(names, tuple(sorted(items, key=lambda item: item.key)))


def _empty(found: Found) -> list[str]:
    """The labels that no image has."""
    return sort_labels(found.labels - {label for own, _ in found.images for label in own})


def _list_demo(task: TaskConfig, source: DemoSource) -> Listing:
    try:
        kind, listing = demo_kind(source.task), demo_listing(source.task)
    except ValueError as error:
        raise ValueError(f"Task {task.name!r}: {error}") from error
    if task.kind != kind:
        raise ValueError(
            f"Task {task.name!r}: kind={task.kind!r}, but the demo task {source.task!r} is of kind {kind!r}. "
            f"Set kind to {kind!r}, or take another demo task."
        )
    names = () if kind == "retrieval" else name_classes(task, listing.class_names)
    return Listing(names, tuple(sorted(listing.items, key=lambda item: item.key)))


def _read_parts(task: TaskConfig, source: _Located, split: ExplicitSplit, roots: DataRoots) -> Found:
    if isinstance(source, ManifestSource) and source.split_column:
        raise ValueError(
            f"Task {task.name!r}: both split_column={source.split_column!r} and separate train and test sources are "
            "given. Keep one of the two."
        )
    uris = {"train": split.train, "val": split.val, "test": split.test}
    merged = Found()
    for part in PARTS:
        if (uri := uris[part]) is None:
            continue
        found = _read(task, source, uri, roots)
        if part != "train" and (unknown := sorted(found.labels - merged.labels)):
            raise ValueError(
                f"Task {task.name!r}: {part} holds classes that train does not ({', '.join(map(repr, unknown[:20]))}). "
                "Add training images for them, or remove them."
            )
        if part == "train" and (empty := _empty(found)):
            raise ValueError(
                f"Task {task.name!r}: {len(empty)} of {len(found.labels)} classes have no training image "
                f"({', '.join(map(repr, empty[:20]))}). Add images or remove the class."
            )
        merged.labels.update(found.labels)
        merged.images.extend((own, replace(item, key=f"{part}/{item.key}", split=part)) for own, item in found.images)
    return merged


def _read(task: TaskConfig, source: _Located, uri: str, roots: DataRoots) -> Found:
    try:
        match source:
            case HuggingFaceSource():
                return read_dataset(source, kind=task.kind, roots=roots)
            case WebDatasetSource():
                return read_shards(uri, source, kind=task.kind, roots=roots)
        location = roots.check(uri)
        by_label = list_folder(location, roots) if isinstance(source, FolderSource) else None
    except (ValueError, *FAULTS_OF_THE_DATA) as error:
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
    return Found(set(by_label), [((label,), item) for label, items in by_label.items() for item in items])


def _read_manifest(task: TaskConfig, source: ManifestSource, uri: str, location: str, roots: DataRoots) -> Found:
    try:
        content = reader(location, roots)()
    except (*FAULTS_OF_THE_DATA, UnreadableImage) as error:
        raise ValueError(
            f"Task {task.name!r}: the manifest {uri!r} does not exist or cannot be read. Give a .csv, .jsonl or "
            f".parquet table{_roots_hint(uri, roots)}."
        ) from error
    rows_of_image: dict[str, list[Row]] = {}
    images: list[tuple[tuple[str, ...], Item]] = []
    for row in read_rows(content, source, kind=task.kind, name=printable(location), task=task.name):
        where = f"Task {task.name!r}: manifest {uri!r}, row {row.number}"
        key = printable(posixpath.normpath(row.path) if "://" not in row.path else row.path)
        rows = rows_of_image.setdefault(key, [])
        rows.append(row)
        if len(rows) == 1:
            try:
                images.append(
                    (row.labels, Item(key, 0, row.split, reader(_row_location(row.path, location, roots), roots)))
                )
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        elif task.kind != "retrieval":
            raise ValueError(f"{where} lists {key!r} again (first in row {rows[0].number}). List every image once.")
        elif row.split != rows[0].split:
            raise ValueError(
                f"{where} puts {key!r} into {row.split}, row {rows[0].number} into {rows[0].split}. "
                "Give every image one part."
            )
    captions = {key: tuple(caption for row in rows for caption in row.captions) for key, rows in rows_of_image.items()}
    images = [(own, replace(item, captions=captions[item.key])) for own, item in images]
    return Found.of(images)


def _row_location(path: str, manifest: str, roots: DataRoots) -> str:
    if "://" in path or os.path.isabs(path):
        return roots.check(path)
    parent = manifest.rpartition("/")[0]
    return roots.check(f"{parent}/{path}") if "://" in manifest else roots.check_path(os.path.join(parent, path))


def _roots_hint(uri: str, roots: DataRoots) -> str:
    relative = "://" not in uri and not os.path.isabs(uri)
    return f"; a relative path is taken from the data roots {list(roots.file_roots)}" if relative else ""
