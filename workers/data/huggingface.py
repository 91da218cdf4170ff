"""Hugging Face datasets as Parquet files with the images inside, on the hub or in a folder.

Own reading rather than the `datasets` package, which would follow a dataset's card to files anywhere and copy all of it
to disk first: here a label costs its column and an image its row group, and of a dataset nothing but Parquet is read.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from threading import Lock
from typing import Any

import pyarrow
import pyarrow.parquet

from workers.data.answers import read_answer
from workers.data.config import HuggingFaceSource, TaskKind
from workers.data.decoding import UnreadableImage
from workers.data.files import MAX_BYTES, find_files, open_file
from workers.data.listing import Found, Item
from workers.data.roots import DataRoots

_SUFFIX = ".parquet"
_ANSWERS_AT_ONCE = 16
"""Rows that are unpacked before their size is looked at: few bytes of a dictionary may stand for very many."""


def read_dataset(source: HuggingFaceSource, *, kind: TaskKind, roots: DataRoots) -> Found:
    """The images of the splits that the source names, by `FILE/ROW`; those of parts have their split set.

    ValueError for a place outside the roots, a split that is not there, a column that is missing or of another type, a
    damaged file and a row whose label or caption is none.
    """
    folder = roots.check(source.uri)
    if source.revision is not None:
        repository = folder.split("/")
        repository[4] += f"@{source.revision}"
        folder = "/".join(repository)
    files = find_files(folder, roots, lambda name: name.endswith(_SUFFIX))
    splits = {"train": source.train_split, "val": source.val_split, "test": source.test_split}
    chosen = [
        (part, *file)
        for part, split in splits.items()
        if split is not None
        for file in _files_of(split, files, source.uri)
    ]
    tables = _Tables([location for _, _, location in chosen], source.image_column, roots)
    answer = source.caption_column if kind == "retrieval" else source.label_column
    images = []
    for table, (part, key, _) in enumerate(chosen):
        with _faults_of(key):
            for row, (group, row_of_group, value) in enumerate(tables.answers(table, answer)):
                labels, captions = read_answer(
                    {answer: value}, answer, kind=kind, separator=source.label_separator, where=f"row {row}"
                )
                read = partial(tables.image, table, group, row_of_group)
                split = part if source.test_split else None
                images.append((labels, Item(f"{key}/{row:07d}", 0, split, read, captions=captions)))
    return Found.of(images)


def _files_of(split: str, files: list[tuple[str, str]], uri: str) -> list[tuple[str, str]]:
    """Key and location of the files of one split, which their names or their folder tell."""

    def is_of_split(key: str) -> bool:
        folder, _, name = key.rpartition("/")
        stem = name.removesuffix(_SUFFIX)
        return stem == split or stem.startswith(f"{split}-") or folder.rpartition("/")[2] == split

    found = [file for file in files if is_of_split(file[0])]
    if not found:
        held = ", ".join(repr(key) for key, _ in files[:5]) or "none at all"
        raise ValueError(
            f"{uri!r} has no Parquet file of the split {split!r} (its Parquet files: {held}). Name a split that is "
            f"there: files called SPLIT{_SUFFIX} or SPLIT-*{_SUFFIX}, or a folder called SPLIT."
        )
    folders = sorted({key.rpartition("/")[0] for key, _ in found})
    if len(folders) > 1:
        raise ValueError(
            f"{uri!r} has the split {split!r} in several folders ({', '.join(map(repr, folders[:5]))}). Put the one "
            "that is meant behind the uri."
        )
    return found


class _Tables:
    """Parquet files of one dataset.  Images are read by the row group, of which the last two stay in memory."""

    def __init__(self, locations: Sequence[str], image_column: str, roots: DataRoots):
        self._locations = locations
        self._image_column = image_column
        self._roots = roots
        self._turn = Lock()
        self._images_of = lru_cache(maxsize=2)(self._read_images)

    def answers(self, table: int, column: str) -> Iterator[tuple[int, int, Any]]:
        """Row group, row of it and value, of every row; numbers of a class list become its names."""
        with self._open(table) as file:
            schema = file.schema_arrow
            _leaf(schema, self._image_column)
            if column not in schema.names:
                raise ValueError(f"there is no column {column!r} among {', '.join(map(repr, schema.names))}")
            names = _class_list(schema, column)
            for group in range(file.num_row_groups):
                for row, value in enumerate(_values(file, group, column, at_once=_ANSWERS_AT_ONCE)):
                    yield group, row, value if names is None else _named(value, names)

    def image(self, table: int, group: int, row: int) -> bytes:
        """The encoded image.  May be called from many threads."""
        with self._turn:
            content = self._images_of(table, group)[row]
        if not isinstance(content, bytes):
            raise UnreadableImage("the row holds no image; paths and URLs are not followed")
        return content

    def _read_images(self, table: int, group: int) -> list[bytes | None]:
        with self._open(table) as file:
            leaf = _leaf(file.schema_arrow, self._image_column)
            values = _values(file, group, leaf, at_once=1)
            return [value["bytes"] if isinstance(value, dict) else value for value in values]

    @contextmanager
    def _open(self, table: int) -> Iterator[pyarrow.parquet.ParquetFile]:
        with open_file(self._locations[table], self._roots) as stream:
            try:
                yield pyarrow.parquet.ParquetFile(stream)
            except (pyarrow.ArrowException, OSError) as error:
                # Of a damaged file pyarrow says OSError without a number; disks and networks say more.
                if not isinstance(error, pyarrow.ArrowException) and (type(error), error.errno) != (OSError, None):
                    raise
                raise UnreadableImage(f"damaged Parquet: {error}") from error


@contextmanager
def _faults_of(key: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"The file {key!r}: {error}") from error


def _leaf(schema: pyarrow.Schema, column: str) -> str:
    """The column with encoded bytes: the named one, or the part of it that holds them."""
    kind = schema.field(column).type if column in schema.names else None
    if kind is not None and pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column, kind = f"{column}.bytes", kind.field("bytes").type
    if kind is None or not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        found = ", ".join(f"{field.name!r} ({field.type})" for field in schema)
        raise ValueError(f"{column!r} is no column of encoded images among {found}. Set image_column.")
    return column


def _values(file: pyarrow.parquet.ParquetFile, group: int, column: str, *, at_once: int) -> Iterator[Any]:
    """A column of one row group; UnreadableImage if it is larger, packed or unpacked, than a file may be."""
    metadata = file.metadata.row_group(group)
    chunks = [metadata.column(index) for index in range(metadata.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{column}."))
    batches = file.iter_batches(batch_size=at_once, row_groups=[group], columns=[column]) if size <= MAX_BYTES else ()
    unpacked = 0
    for batch in batches:
        unpacked += batch.nbytes
        if unpacked > MAX_BYTES:
            break
        yield from batch.column(0).to_pylist()
    if max(size, unpacked) > MAX_BYTES:
        raise UnreadableImage(
            f"column {column!r} of row group {group} exceeds the limit of {MAX_BYTES} bytes. Write smaller row groups."
        )


def _class_list(schema: pyarrow.Schema, column: str) -> list[str] | None:
    """The names behind the numbers of a label column, if the dataset brings any."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        while isinstance(feature, list) or "feature" in feature:
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    if not isinstance(value, int):
        return value
    if not 0 <= value < len(names):
        raise ValueError(
            f"the label {value} is none of the {len(names)} classes. A split without labels holds -1: take another."
        )
    return names[value]
