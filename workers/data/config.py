"""A task as the user describes it: where its images are, how they are split, what its classes are called.

Torch-free.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from workers.spec import Spec

TaskKind = Literal["classification", "multi_label", "retrieval"]
"""What a task asks: the one class of an image, which of the classes are in it, or which caption belongs to it."""
METRICS: Mapping[TaskKind, str] = {
    "classification": "accuracy",
    "multi_label": "mean_average_precision",
    "retrieval": "recall@1",
}
"""Task kind -> the metric that is its score."""


class FolderSource(Spec):
    """One sub-folder per class; the folder's name is the class name unless the task lists its own."""

    kind: Literal["folder"] = "folder"
    uri: str
    """A path or an fsspec URI under an allowed root."""


class ManifestSource(Spec):
    """A CSV, JSONL or Parquet table with one row per image; relative paths are relative to the table.

    A retrieval task may have several rows per image, which add captions in the order of the rows.
    """

    kind: Literal["manifest"] = "manifest"
    uri: str
    """The table, by extension: .csv, .jsonl or .parquet."""
    path_column: str = "path"
    """Column with the image's path or URI."""
    label_column: str = "label"
    """Column with the class name; for multi_label with all of them: a list (JSONL, Parquet) or a text with separators.
    Nothing there means that no class is in the image.  A retrieval task does not read it."""
    label_separator: str = Field(default="|", min_length=1)
    """What stands between the labels of a text; multi_label only."""
    caption_column: str = "caption"
    """Column with the image's caption: a text, or a list of texts (JSONL, Parquet); retrieval only."""
    split_column: str | None = None
    """Column that says train, val or test; left out: the task's split decides."""


class DemoSource(Spec):
    """One of the tasks of the world that ships with Cohort."""

    kind: Literal["demo"] = "demo"
    task: str
    """The demo task's name, e.g. `digits-ink`."""


class HuggingFaceSource(Spec):
    """A Hugging Face dataset as Parquet files, the images inside them; no code of the dataset's is ever run.

    It is read by the row group, so few images of a large dataset cost little.  A dataset in another format has a
    Parquet copy on the hub: its branch `refs/convert/parquet`, whose commit is the revision to give.
    """

    kind: Literal["huggingface"] = "huggingface"
    uri: str
    """`hf://datasets/ORG/NAME`, with the folder of one configuration behind it if there are several; or any folder or
    URI that holds such Parquet files."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The commit, as 40 hexadecimal digits, so that the data never changes.  Needed with `hf://`, and only there."""
    train_split: str = Field(default="train", min_length=1)
    """The dataset's split to train on; without `test_split`, the one that the task's split divides."""
    val_split: str | None = Field(default=None, min_length=1)
    """The dataset's split to validate on, beside `test_split`.  Left out: images that training leaves over."""
    test_split: str | None = Field(default=None, min_length=1)
    """The dataset's split to test on."""
    image_column: str = "image"
    """Column with the encoded images.  Paths and URLs in it are never followed."""
    label_column: str = "label"
    """Column with the class, by name or as a number of the dataset's class list; for multi_label a list of them, or a
    text with separators.  A retrieval task does not read it."""
    label_separator: str = Field(default="|", min_length=1)
    """What stands between the labels of a text; multi_label only."""
    caption_column: str = "caption"
    """Column with the image's caption: a text, or a list of texts; retrieval only."""

    @model_validator(mode="after")
    def _pinned(self) -> "HuggingFaceSource":
        on_the_hub = self.uri.lower().startswith("hf://")
        if on_the_hub and not re.fullmatch(r"datasets/[^/@]+/[^/@]+(/[^@]*)?", self.uri[len("hf://") :]):
            raise ValueError(
                f"uri={self.uri!r} names no dataset of the hub. Write hf://datasets/ORG/NAME, a folder behind it if "
                "need be, and the commit in `revision`."
            )
        if on_the_hub != (self.revision is not None):
            raise ValueError(
                f"uri={self.uri!r} with revision={self.revision!r}. A dataset of the hub needs the commit that it is "
                "read at (40 hexadecimal digits); other places have none."
            )
        if self.val_split and not self.test_split:
            raise ValueError(f"val_split={self.val_split!r} without test_split. Give both, or leave the task's split.")
        return self


_LABEL_MEMBER = r"^([\w-]+\.)*(cls|txt|json)$"


class WebDatasetSource(Spec):
    """WebDataset shards: plain tar files whose members, under one name with several extensions, are an image's parts.

    Only images and the members named below are read; nothing is unpacked, unpickled or run.
    """

    kind: Literal["webdataset"] = "webdataset"
    uri: str
    """One shard, or several by braces: `shards/train-{000..015}.tar`, `{art,photo}/{0..3}.tar`."""
    image_extension: str | None = Field(default=None, min_length=1)
    """Extension of the images, such as `jpg` or `left.png`.  Left out: the only member of a sample that is an image."""
    label_extension: str = Field(default="cls", pattern=_LABEL_MEMBER)
    """Member with the label: `cls` or `txt`, a text; or `json`, an object (any of them may have a longer name, such as
    `meta.json`).  For multi_label a text with separators, or a list.  A retrieval task does not read it."""
    label_key: str = "label"
    """Where a `json` holds the label."""
    label_separator: str = Field(default="|", min_length=1)
    """What stands between the labels of a text; multi_label only."""
    caption_extension: str = Field(default="txt", pattern=_LABEL_MEMBER)
    """Member with the caption: a text, or a `json`; retrieval only."""
    caption_key: str = "caption"
    """Where a `json` holds the caption: a text, or a list of texts; retrieval only."""


SourceConfig = Annotated[
    FolderSource | ManifestSource | HuggingFaceSource | WebDatasetSource | DemoSource, Field(discriminator="kind")
]


class ShotsSplit(Spec):
    """A few labelled images per class to train on, a few to validate, all others to test."""

    shots: int = Field(ge=1)
    """Training images per class (all but one if a class has fewer)."""
    val_shots: int | None = Field(default=None, ge=0)
    """Validation images per class.  Left out: min(shots, 4)."""
    test_per_class: int | None = Field(default=None, ge=1)
    """Cap on test images per class.  Left out: all that remain."""
    seed: int = 1
    """The same seed and the same data give the same split, for ever."""


class FractionSplit(Spec):
    """A fraction of every class to train on, a fraction to validate, all others to test.

    Multi-label and retrieval tasks have no class to divide by: there it is a fraction of all images.
    """

    fraction: float = Field(gt=0, le=1)
    """Training share of every class's images (at least one).  1: all training images of a source that has parts of
    its own (a split column, a test split, a demo task)."""
    val_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Validation share of every class's images."""
    seed: int = 1
    """The same seed and the same data give the same split, for ever."""

    @model_validator(mode="after")
    def _something_is_left_to_test(self) -> "FractionSplit":
        everything = (
            self.fraction == 1 and self.val_fraction == 0
        )  # allowed where the source has a test part: TaskConfig
        if (
            not everything and self.fraction + self.val_fraction > 1 - 1e-9
        ):  # rounding: a sum of 1 may come out a little below it
            raise ValueError(
                f"fraction={self.fraction} and val_fraction={self.val_fraction} leave nothing to test. "
                "Keep their sum under 1."
            )
        return self


class ExplicitSplit(Spec):
    """Separate sources for train, val and test, each read like the task's own source: folders, manifests or shards."""

    train: str
    """Where the training images are."""
    test: str
    """Where the test images are."""
    val: str | None = None
    """Where the validation images are."""


def _split_kind(value: Any) -> str:
    keys = value.keys() if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    return next((key for key in ("shots", "fraction") if key in keys), "explicit")


SplitConfig = Annotated[
    Annotated[ShotsSplit, Tag("shots")]
    | Annotated[FractionSplit, Tag("fraction")]
    | Annotated[ExplicitSplit, Tag("explicit")],
    Discriminator(_split_kind),
]


_UNSPLIT = FractionSplit(fraction=0.5, val_fraction=0.1)
"""Split of a multi-label or retrieval task that says none, from a source that has no parts of its own."""


class TaskConfig(Spec):
    """One problem of a job: images, and what is asked of them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Unique within the job; letters, digits, dot, dash and underscore."""
    kind: TaskKind = "classification"
    """classification: one class per image.  multi_label: any number of classes per image.  retrieval: images and the
    captions that belong to them, searched both ways."""
    source: SourceConfig
    """Where the images come from; a folder says one class per image, so multi_label and retrieval need another."""
    split: SplitConfig = ShotsSplit(shots=16)
    """Which images train, validate and test.  By shots: classification only.  Left out for multi_label and retrieval:
    the parts of the source as they are, or else half to train, a tenth to validate and the rest to test."""
    template: str = "a photo of a {}."
    """The sentence around a class name; `{}` stands for the name.  A retrieval task's captions are whole sentences:
    there it is `{}`."""
    class_names: list[str] | dict[str, str] | None = None
    """Names for the classes: a list in the order of the sorted source labels, or source label -> name.
    Left out: the source's labels with `_` turned into a space.  A retrieval task has no classes."""
    bad_image_budget: float = Field(default=0.01, ge=0, le=1)
    """Share of images that may be unreadable (skipped and counted) before the task is refused."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_follow_the_kind(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("kind") not in ("multi_label", "retrieval"):
            return given
        filled: dict[str, Any] = {"split": FractionSplit(fraction=1) if _has_parts(given.get("source")) else _UNSPLIT}
        if given["kind"] == "retrieval":
            filled["template"] = "{}"
        return filled | given

    @field_validator("template")
    @classmethod
    def _template_has_one_place(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError(f"template {value!r} must hold `{{}}` exactly once, where the class name goes.")
        return value

    @model_validator(mode="after")
    def _split_fits_the_source(self) -> "TaskConfig":
        if isinstance(self.split, ExplicitSplit) and isinstance(self.source, DemoSource | HuggingFaceSource):
            raise ValueError(
                f"a {self.source.kind} source has its own train, val and test images: use a split by shots or fraction."
            )
        if isinstance(self.split, FractionSplit) and self.split.fraction == 1 and not _has_parts(self.source):
            raise ValueError(
                "fraction=1.0 leaves nothing to test, since the source has no parts of its own. Give a fraction under "
                "1, or a source with parts (a manifest's split_column, a Hugging Face dataset's test_split)."
            )
        return self

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> "TaskConfig":
        if self.kind != "classification":
            if isinstance(self.source, FolderSource):
                raise ValueError(
                    f"kind={self.kind!r} with a folder source, which says one class per image. Use a manifest source "
                    "(.csv, .jsonl or .parquet) or another that holds labels and captions, or kind='classification'."
                )
            if isinstance(self.split, ShotsSplit):
                why = "an image has several classes" if self.kind == "multi_label" else "an image has no class"
                raise ValueError(
                    f"kind={self.kind!r} with a split by shots, which counts images per class, but {why}. Use "
                    "fraction, separate train and test sources, or a split_column."
                )
        if self.kind == "retrieval":
            if self.class_names is not None:
                raise ValueError("kind='retrieval' with class_names, but captions take their place. Leave it out.")
            if self.template != "{}":
                raise ValueError(
                    f"kind='retrieval' with template={self.template!r}, but captions are whole sentences. Leave it out."
                )
        _refuse_answers_of_other_kinds(self.kind, self.source)
        return self


def _has_parts(source: Any) -> bool:
    """Whether a source, as it was given or validated, says itself which images train and test."""

    def said(name: str) -> Any:
        return source.get(name) if isinstance(source, dict) else getattr(source, name, None)

    return said("kind") == "demo" or bool(said("split_column") or said("test_split"))


def _refuse_answers_of_other_kinds(kind: TaskKind, source: SourceConfig) -> None:
    owners: dict[str, tuple[TaskKind, ...]] = {
        "label_separator": ("multi_label",),
        "label_": ("classification", "multi_label"),
        "caption_": ("retrieval",),
    }
    for name, field in type(source).model_fields.items():
        kinds = next((kinds for start, kinds in owners.items() if name.startswith(start)), (kind,))
        if kind not in kinds and (value := getattr(source, name)) != field.default:
            raise ValueError(
                f"kind={kind!r} with {name}={value!r}, which is for {' and '.join(kinds)}. Leave it out, or change the "
                "kind."
            )
