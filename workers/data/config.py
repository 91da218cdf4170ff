"""A task as the user describes it: where its images are, how they are split, what its classes are called.

Torch-free.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from workers.spec import Spec


class FolderSource(Spec):
    """One sub-folder per class; the folder's name is the class name unless the task lists its own."""

    kind: Literal["folder"] = "folder"
    uri: str
    """A path or an fsspec URI under an allowed root."""


class ManifestSource(Spec):
    """A CSV, JSONL or Parquet table with one row per image; relative paths are relative to the table."""

    kind: Literal["manifest"] = "manifest"
    uri: str
    """The table, by extension: .csv, .jsonl or .parquet."""
    path_column: str = "path"
    """Column with the image's path or URI."""
    label_column: str = "label"
    """Column with the class name."""
    split_column: str | None = None
    """Column that says train, val or test; left out: the task's split decides."""


class DemoSource(Spec):
    """One of the tasks of the world that ships with Cohort."""

    kind: Literal["demo"] = "demo"
    task: str
    """The demo task's name, e.g. `digits-ink`."""


SourceConfig = Annotated[FolderSource | ManifestSource | DemoSource, Field(discriminator="kind")]


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
    """A fraction of every class to train on, a fraction to validate, all others to test."""

    fraction: float = Field(gt=0, lt=1)
    """Training share of every class's images (at least one)."""
    val_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Validation share of every class's images."""
    seed: int = 1
    """The same seed and the same data give the same split, for ever."""

    @model_validator(mode="after")
    def _something_is_left_to_test(self) -> "FractionSplit":
        if self.fraction + self.val_fraction > 1 - 1e-9:  # rounding: a sum of 1 may come out a little below it
            raise ValueError(
                f"fraction={self.fraction} and val_fraction={self.val_fraction} leave nothing to test. "
                "Keep their sum under 1."
            )
        return self


class ExplicitSplit(Spec):
    """Separate sources for train, val and test, each read like the task's own source."""

    train: str
    """Folder or manifest with the training images."""
    test: str
    """Folder or manifest with the test images."""
    val: str | None = None
    """Folder or manifest with the validation images."""


def _split_kind(value: Any) -> str:
    keys = value.keys() if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    return next((key for key in ("shots", "fraction") if key in keys), "explicit")


SplitConfig = Annotated[
    Annotated[ShotsSplit, Tag("shots")]
    | Annotated[FractionSplit, Tag("fraction")]
    | Annotated[ExplicitSplit, Tag("explicit")],
    Discriminator(_split_kind),
]


class TaskConfig(Spec):
    """One classification problem of a job."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Unique within the job; letters, digits, dot, dash and underscore."""
    source: SourceConfig
    """Where the images come from."""
    split: SplitConfig = ShotsSplit(shots=16)
    """Which images train, validate and test."""
    template: str = "a photo of a {}."
    """The sentence around a class name; `{}` stands for the name."""
    class_names: list[str] | dict[str, str] | None = None
    """Names for the classes: a list in the order of the sorted source labels, or source label -> name.
    Left out: the source's labels with `_` turned into a space."""
    bad_image_budget: float = Field(default=0.01, ge=0, le=1)
    """Share of images that may be unreadable (skipped and counted) before the task is refused."""

    @field_validator("template")
    @classmethod
    def _template_has_one_place(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError(f"template {value!r} must hold `{{}}` exactly once, where the class name goes.")
        return value

    @model_validator(mode="after")
    def _explicit_split_needs_files(self) -> "TaskConfig":
        if isinstance(self.split, ExplicitSplit) and isinstance(self.source, DemoSource):
            raise ValueError("a demo source has its own train, val and test images: use a split by shots or fraction.")
        return self
