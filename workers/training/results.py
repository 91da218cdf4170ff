"""What training leaves behind for one group, and how it is written: tensors first, the result last.  Torch-free."""

from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from workers.seals import Damaged, read_sealed, write_sealed
from workers.storage import write

LEARNED = "learned.safetensors"
TEXT_FEATURES = "text_features.safetensors"
RESULT = "result.json"
VALIDATION = "validation.json"


@dataclass(frozen=True)
class Progress:
    """Where one group stands."""

    group: str
    step: int
    num_steps: int
    losses: dict[str, float]
    """Training loss of the latest step, per task."""
    scores: dict[str, float]
    """Latest validation score, per task; empty until the first validation."""
    val_losses: dict[str, float]
    """Latest validation loss, per task; empty until the first validation."""
    images_per_second: float
    lr: float
    device_bytes: int = 0
    """Memory that the process holds on its device; on CPU, of the machine's."""
    warnings: tuple[tuple[str, str], ...] = ()
    """What the user should hear of, once each: (kind of event, sentence)."""


@dataclass(frozen=True)
class TaskResult:
    """How one task did on its test images."""

    task: str
    group: str
    metric: str
    """What `score` is: `accuracy`, `mean_average_precision` or `recall@1`, as the task's kind has it."""
    score: float
    """0..1, higher is better."""
    metrics: dict[str, float]
    """All that was measured on the test images, by name; `metric` is one of them."""
    loss: float
    """Mean loss in nats."""
    num_test: int
    """Test images."""
    val_score: float | None
    """None if the task has no validation images."""
    per_image: list[float]
    """One figure per test image, in the order of the test set: 1 or 0 for `accuracy`, the average precision of the
    image's own labels for several labels (0 where it has none), the mean of its hits both ways for retrieval."""


@dataclass(frozen=True)
class GroupResult:
    """A finished group."""

    group: str
    tasks: tuple[str, ...]
    results: dict[str, TaskResult]
    curves: list[dict]
    """Points {"step", "task", "loss"} and {"step", "task", "val_score"}."""
    parameters: dict[str, int]
    """`group_shared`, `task_specific`, `total`."""
    seconds: float
    """Time in training steps, all attempts together."""
    steps: int
    images: int
    """Training images seen."""
    details: dict[str, dict[str, float]] = field(default_factory=dict)
    """What the method tells of its tasks: task -> name -> value."""

    @staticmethod
    def read(directory: Path) -> "GroupResult | None":
        """The finished result in a group's directory, or None if it has not finished.  Damaged, if a file is that."""
        try:
            stored = read_sealed(directory / RESULT)
        except (FileNotFoundError, NotADirectoryError):
            return None
        _read_named(directory, stored)
        results = {task: TaskResult(**result) for task, result in stored["results"].items()}
        fields = {
            name: stored[name] for name in ("group", "curves", "parameters", "seconds", "steps", "images", "details")
        }
        return GroupResult(tasks=tuple(stored["tasks"]), results=results, **fields)

    def write(self, directory: Path, learned: bytes, text_features: bytes) -> None:
        """Writes two safetensors files and, last, the result that vouches for them.

        `learned` holds the learned tensors by full name, `text_features` [classes, E] fp32 per task.
        """
        write(directory / LEARNED, learned, "learned")
        write(directory / TEXT_FEATURES, text_features, "text_features")
        digests = {LEARNED: sha256(learned).hexdigest(), TEXT_FEATURES: sha256(text_features).hexdigest()}
        write_sealed(directory / RESULT, asdict(self) | {"files": digests}, "result")


def read_trained(directory: Path) -> dict[str, bytes]:
    """The two safetensors files of a finished group, by name.  FileNotFoundError without a result; Damaged."""
    return _read_named(directory, read_sealed(directory / RESULT))


@dataclass(frozen=True)
class ValidationResult:
    """What a trial leaves behind: how its tasks did on their validation images in the end."""

    group: str
    tasks: tuple[str, ...]
    metrics: dict[str, str]
    """Task -> what its scores are."""
    scores: dict[str, float]
    """Task -> 0..1, higher is better."""
    per_image: dict[str, list[float]]
    """Task -> one figure per validation image, as in `TaskResult`."""
    seconds: float
    """Time in training steps, all attempts together."""
    steps: int
    images: int
    """Training images seen."""

    @staticmethod
    def read(directory: Path) -> "ValidationResult | None":
        """What a trial left in its directory, or None if it has not finished.  Damaged."""
        try:
            stored = read_sealed(directory / VALIDATION)
        except FileNotFoundError:
            return None
        stored["tasks"] = tuple(stored["tasks"])
        return ValidationResult(**stored)

    def write(self, directory: Path) -> None:
        write_sealed(directory / VALIDATION, asdict(self), "validation")


def _read_named(directory: Path, stored: dict) -> dict[str, bytes]:
    """The files that a result vouches for."""
    found = {}
    for name, digest in stored["files"].items():
        try:
            found[name] = (directory / name).read_bytes()
        except FileNotFoundError as error:
            raise Damaged(f"{directory / name} is gone, and {directory / RESULT} vouches for it.") from error
        if sha256(found[name]).hexdigest() != digest:
            raise Damaged(f"{directory / name} is damaged: its sha256 is not the one that {directory / RESULT} names.")
    return found
