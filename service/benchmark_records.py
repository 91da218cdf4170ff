"""What a benchmark keeps of the cells that have run, and what its worker processes are told.  Torch-free."""

import logging
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from service.benchmark_cells import Cell, PlanCell
from workers.data.roots import DataRoots
from workers.spec import Spec

log = logging.getLogger(__name__)


class PlanRecord(Spec):
    """Groups that were formed, or why not."""

    cell: PlanCell
    reason: str | None = None
    """Why there are none."""
    groups: tuple[tuple[str, ...], ...] = ()
    summary: str = ""
    seconds: float = 0.0


class TaskScore(Spec):
    """How one task did."""

    metric: str
    score: float
    metrics: dict[str, float]
    """All that was measured on its test images, by name; nothing where validation images were scored."""
    loss: float
    num_images: int
    """Images scored."""


class Record(Spec):
    """What is known of a cell once it has run."""

    cell: Cell
    date: str
    commit: str | None
    """Of the code, with `+` behind it where files differed from it."""
    hardware: str
    reason: str | None = None
    """Why it failed; then nothing below says anything."""
    tasks: dict[str, TaskScore] = Field(default_factory=dict)
    details: dict[str, dict[str, float]] = Field(default_factory=dict)
    """What the method tells of its tasks: task -> name -> value."""
    groups: tuple[tuple[str, ...], ...] = ()
    group_shared: int = 0
    """Trained numbers that groups share, all groups together."""
    task_specific: int = 0
    """Trained numbers of the tasks' own, all tasks together."""
    backbone_parameters: int = 0
    steps: int = 0
    """Steps that every task was trained for."""
    images: int = 0
    """Training images seen, all tasks together."""
    train_seconds: float = 0.0
    """In training steps, all groups together."""
    seconds: float = 0.0
    """From the loaded images to the scores: features, training and evaluation."""
    peak_memory_mb: float = 0.0
    """CPU: the process's largest resident set so far.  GPU: the most that tensors took during the cell."""

    @property
    def parameters(self) -> int:
        """Trained numbers, all tasks together."""
        return self.group_shared + self.task_specific


class WorkerWork(Spec):
    """What one worker process does."""

    plans: tuple[PlanCell, ...] = ()
    cells: tuple[Cell, ...] = ()
    folder: Path
    """Where the benchmark keeps its records."""
    roots: DataRoots
    cache: Path
    """Where decoded images are kept."""
    device: str
    """`cpu`, `cuda` or `auto`."""
    threads: int
    commit: str | None


def record_path(folder: Path, item: Cell | PlanCell) -> Path:
    """Where an item's record lies once it has run."""
    return folder / ("cells" if isinstance(item, Cell) else "plans") / f"{item.name}.json"


def read_record(folder: Path, cell: Cell) -> Record | None:
    """A cell's record, or None if it has not run."""
    return _read(Record, record_path(folder, cell))


def read_plan(folder: Path, cell: PlanCell) -> PlanRecord | None:
    """The groups of a draw, or None if it has not been asked for."""
    return _read(PlanRecord, record_path(folder, cell))


_Kept = TypeVar("_Kept", Record, PlanRecord)


def _read(kind: type[_Kept], path: Path) -> _Kept | None:
    """The record that lies there.  One that cannot be read is set aside, as if it had not run."""
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError:
        aside = path.with_name(f"damaged-{path.name}")
        path.replace(aside)
        log.warning("%s is damaged or of another version: it is now %s, and is measured again.", path, aside.name)
        return None
