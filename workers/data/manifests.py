"""Tables of images: CSV, JSONL and Parquet read into rows of path, labels or captions, and split."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

from workers.data.config import ManifestSource, TaskKind
from workers.data.listing import PARTS

SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row of a manifest: an image, or one more caption of an image."""

    number: int
    """Counted from 1, without the header."""
    path: str
    labels: tuple[str, ...]
    """classification: one; multi_label: those of the image, each once, may be none; retrieval: none."""
    captions: tuple[str, ...]
    """retrieval: one at least, in the table's order, white space normalised; else none."""
    split: str | None


def read_rows(content: bytes, source: ManifestSource, *, kind: TaskKind, name: str, task: str) -> list[Row]:
    """The rows of the table whose bytes these are; `name` is its location and says by its suffix how to read it."""
    where = f"Task {task!r}: manifest {name!r}"
    answer = "caption_column" if kind == "retrieval" else "label_column"
    columns = [source.path_column, getattr(source, answer), *([source.split_column] if source.split_column else [])]
    try:
        if name.endswith(".csv"):
            table = _read_csv(content)
        elif name.endswith(".jsonl"):
            table = [json.loads(line) for line in content.splitlines() if line.strip()]
        elif name.endswith(".parquet"):
            table = _read_parquet(content, columns)
        else:
            raise ValueError(f"the suffix must be one of {', '.join(SUFFIXES)}")
    except (ValueError, RecursionError, csv.Error, pyarrow.ArrowException) as error:
        raise ValueError(f"{where} cannot be read: {error}.") from error
    if not table:
        raise ValueError(f"{where} has no row. Give one row per image.")
    if bad := next((number for number, record in enumerate(table, start=1) if not isinstance(record, dict)), None):
        raise ValueError(f"{where}, row {bad} is no JSON object. Give one object per line.")
    if missing := [column for column in columns if not any(column in record for record in table)]:
        raise ValueError(
            f"{where} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, table[0]))}. "
            f"Rename the column, or set path_column, {answer} or split_column."
        )
    return [
        _row(record, source, kind, f"{where}, row {number}", number) for number, record in enumerate(table, start=1)
    ]


def _read_csv(content: bytes) -> list[dict[str, Any]]:
    # surrogateescape: file names need not be UTF-8, and such a path must come back byte for byte.
    text = io.StringIO(content.decode("utf-8-sig", errors="surrogateescape"), newline="")
    return list(csv.DictReader(text))


def _read_parquet(content: bytes, columns: list[str]) -> list[dict[str, Any]]:
    with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)) as file:
        present = [column for column in columns if column in file.schema_arrow.names]
        if len(present) < len(columns):
            return [dict.fromkeys(file.schema_arrow.names)]  # enough to say what is missing
        return file.read(columns=columns).to_pylist()


def _row(record: dict[str, Any], source: ManifestSource, kind: TaskKind, where: str, number: int) -> Row:
    path = _text(record, source.path_column, where)
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    match kind:
        case "classification":
            labels = (_text(record, source.label_column, where).strip(),)
        case "multi_label":
            labels = _labels(record, source, where)
        case "retrieval":
            captions = _captions(record, source.caption_column, where)
    split = _text(record, source.split_column, where) if source.split_column else None
    if split is not None and split not in PARTS:
        raise ValueError(f"{where}: {source.split_column!r} is {split!r}. It must be train, val or test.")
    return Row(number, path, labels, captions, split)


def _text(record: dict[str, Any], column: str, where: str) -> str:
    value = record.get(column)
    if not _is_label(value):
        raise ValueError(f"{where}: {column!r} is {value!r}. Give a text or a whole number.")
    return str(value)


def _labels(record: dict[str, Any], source: ManifestSource, where: str) -> tuple[str, ...]:
    """The labels of an image, each once.  Null, an empty text and an empty list are no label at all."""
    column = source.label_column
    if column not in record:  # a misspelt key of one line must not pass for an image without labels
        raise ValueError(
            f"{where} has no {column!r}. Give a list or a text; an empty one means that there is no label."
        )
    value = record[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    labels = value.split(source.label_separator) if isinstance(value, str) else value
    labels = labels if isinstance(labels, list) else [labels]
    if not all(map(_is_label, labels)):
        raise ValueError(
            f"{where}: {column!r} is {value!r}. Give texts or whole numbers, none of them empty, as a list or with "
            f"{source.label_separator!r} between them (label_separator)."
        )
    return tuple(dict.fromkeys(str(label).strip() for label in labels))


def _captions(record: dict[str, Any], column: str, where: str) -> tuple[str, ...]:
    value = record.get(column)
    given = value if isinstance(value, list) else [value]
    captions = tuple(" ".join(caption.split()) if isinstance(caption, str) else "" for caption in given)
    if not captions or not all(captions):
        raise ValueError(f"{where}: {column!r} is {value!r}. Give a text, or a list of texts, none of them empty.")
    if unreadable := [caption for caption in captions if any("\ud800" <= letter <= "\udfff" for letter in caption)]:
        raise ValueError(f"{where}: {column!r} is {unreadable[0]!r}, which is no valid text. Write the table in UTF-8.")
    return captions


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip() != ""
