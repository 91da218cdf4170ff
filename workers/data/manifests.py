"""Tables of images: CSV, JSONL and Parquet read into rows of path, labels or captions, and split."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

from workers.data.answers import read_answer, read_text
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
    path = read_text(record, source.path_column, where)
    answer = source.caption_column if kind == "retrieval" else source.label_column
    labels, captions = read_answer(record, answer, kind=kind, separator=source.label_separator, where=where)
    split = read_text(record, source.split_column, where) if source.split_column else None
    if split is not None and split not in PARTS:
        raise ValueError(f"{where}: {source.split_column!r} is {split!r}. It must be train, val or test.")
    return Row(number, path, labels, captions, split)
