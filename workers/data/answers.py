"""What a source says of one image: its label, its labels or its captions, as text that was checked.

A record is a row of a table, or the JSON of a sample: values by name.
"""

from collections.abc import Mapping
from typing import Any

from workers.data.config import TaskKind


def read_answer(
    record: Mapping[str, Any], name: str, *, kind: TaskKind, separator: str, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labels and the captions of the image.  ValueError begins with `where`.

    classification: one label; multi_label: those of the image, each once, may be none; retrieval: one caption at least,
    white space normalised.
    """
    match kind:
        case "classification":
            return (read_text(record, name, where).strip(),), ()
        case "multi_label":
            return _labels(record, name, separator, where), ()
        case "retrieval":
            return (), _captions(record, name, where)


def read_text(record: Mapping[str, Any], name: str, where: str) -> str:
    """A text that is not empty, or a whole number as one."""
    value = record.get(name)
    if not _is_label(value):
        raise ValueError(f"{where}: {name!r} is {value!r}. Give a text or a whole number.")
    return str(value)


def _labels(record: Mapping[str, Any], name: str, separator: str, where: str) -> tuple[str, ...]:
    """The labels of an image, each once.  Null, an empty text and an empty list are no label at all."""
    if name not in record:  # a misspelt key of one line must not pass for an image without labels
        raise ValueError(f"{where} has no {name!r}. Give a list or a text; an empty one means that there is no label.")
    value = record[name]
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    labels = value.split(separator) if isinstance(value, str) else value
    labels = labels if isinstance(labels, list) else [labels]
    if not all(map(_is_label, labels)):
        raise ValueError(
            f"{where}: {name!r} is {value!r}. Give texts or whole numbers, none of them empty, as a list or with "
            f"{separator!r} between them (label_separator)."
        )
    return tuple(dict.fromkeys(str(label).strip() for label in labels))


def _captions(record: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = record.get(name)
    given = value if isinstance(value, list) else [value]
    captions = tuple(" ".join(caption.split()) if isinstance(caption, str) else "" for caption in given)
    if not captions or not all(captions):
        raise ValueError(f"{where}: {name!r} is {value!r}. Give a text, or a list of texts, none of them empty.")
    if unreadable := [caption for caption in captions if any("\ud800" <= letter <= "\udfff" for letter in caption)]:
        raise ValueError(f"{where}: {name!r} is {unreadable[0]!r}, which is no valid text. Write the table in UTF-8.")
    return captions


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip() != ""
