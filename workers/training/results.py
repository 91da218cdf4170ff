"""What training leaves behind for one group, and how it is written: tensors first, the result last.  Torch-free."""

import json
import os
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

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
        """The finished result in a group's directory, or None if it has not finished.

        ValueError if a finished file is damaged: its sha256 is not the one the result names.
        """
        path = directory / RESULT
        if not path.is_file():
            return None
        stored = json.loads(path.read_text())
        for name, digest in stored["sha256"].items():
            if sha256((directory / name).read_bytes()).hexdigest() != digest:
                raise ValueError(
                    f"{directory / name} is damaged: its sha256 differs from {path}. Delete {path} to train again."
                )
        results = {task: TaskResult(**result) for task, result in stored["results"].items()}
        fields = {
            name: stored[name] for name in ("group", "curves", "parameters", "seconds", "steps", "images", "details")
        }
        return GroupResult(tasks=tuple(stored["tasks"]), results=results, **fields)

    def write(self, directory: Path, learned: bytes, text_features: bytes) -> None:
        """Writes two safetensors files and, last, the result that vouches for them.

        `learned` holds the learned tensors by full name, `text_features` [classes, E] fp32 per task.
        """
        digests = {}
        for name, content in ((LEARNED, learned), (TEXT_FEATURES, text_features)):
            write_atomically(directory / name, content)
            digests[name] = sha256(content).hexdigest()
        content = json.dumps(asdict(self) | {"sha256": digests}, allow_nan=False).encode()
        write_atomically(directory / RESULT, content)


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
        """What a trial left in its directory, or None if it has not finished."""
        path = directory / VALIDATION
        if not path.is_file():
            return None
        stored = json.loads(path.read_text())
        return ValidationResult(**stored | {"tasks": tuple(stored["tasks"])})

    def write(self, directory: Path) -> None:
        write_atomically(directory / VALIDATION, json.dumps(asdict(self), allow_nan=False).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """The file is there whole or not at all, and stays so through a power cut.  Its mode is a new file's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        with temporary.open("xb") as file:  # not tempfile: its files are their owner's alone, whatever the umask
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
