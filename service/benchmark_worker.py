"""The process that measures cells: `python -m service.benchmark_worker`, started by service/benchmark.py.

1. Its work comes as one line of JSON on standard input.  2. It does item after item, writes each one's record whole or
not at all, and says so with a line on standard output.  3. When standard input ends (Ctrl-C in the parent, or the
parent is gone), it writes checkpoints and leaves.  One process serves one contestant, so that its peak memory is that
contestant's; loaded images and the frozen CLIP stay from cell to cell.
"""

import logging
import os
import platform
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from grouping.plan import make_plan
from service.benchmark_cells import Cell, Draw, PlanCell
from service.benchmark_records import PlanRecord, Record, TaskScore, WorkerWork, read_plan, record_path
from service.spec import sharing_of
from workers.clip.frozen import FrozenCLIP, load_clip
from workers.data.config import METRICS
from workers.data.dataset import ImageSet, TaskData, load_task
from workers.launching.execute import attempt
from workers.launching.packing import MAX_IMAGES_PER_STEP, pack
from workers.launching.work import num_steps, train_unit
from workers.storage import write
from workers.training.config import TrainConfig
from workers.training.features import FeatureCache
from workers.training.run import GroupRun
from workers.training.signatures import profile
from workers.training.train import GroupWork, train

log = logging.getLogger(__name__)

_UNSEEN = ImageSet(np.zeros((0, 3, 1, 1), np.uint8), np.zeros(0, np.int64), ())
"""What stands for test images where only validation images are scored."""


@dataclass(frozen=True)
class _Measured:
    """One group, trained and scored."""

    tasks: dict[str, TaskScore]
    details: dict[str, dict[str, float]]
    parameters: dict[str, int]
    seconds: float
    images: int


class Worker:
    """Does the items of one work, one after another."""

    def __init__(self, work: WorkerWork, should_stop: Callable[[], bool]) -> None:
        torch.set_num_threads(work.threads)
        here = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = here if work.device == "auto" else work.device
        self._work, self._should_stop = work, should_stop
        self._loaded: tuple[object, dict[str, TaskData]] = (None, {})

    @cached_property
    def _clip(self) -> FrozenCLIP:
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device={self._work.device}: torch sees no GPU on this machine. Use cpu.")
        first, *_ = *self._work.plans, *self._work.cells
        return load_clip(first.backbone, device=self.device, roots=self._work.roots)

    def run(self, item: Cell | PlanCell) -> bool:
        """Writes the item's record, of success or of failure; False if it was stopped before."""
        scratch = self._work.folder / "running" / item.name
        if isinstance(item, Cell):
            outcome = attempt(lambda: self._measure(item, scratch))
            failed = Record(**self._circumstances(item), reason=outcome.error)
        else:
            outcome = attempt(lambda: self._form_groups(item, scratch))
            failed = PlanRecord(cell=item, reason=outcome.error)
        if outcome.kind == "stopped":
            return False
        if outcome.traceback:
            log.warning("%s failed:\n%s", item.name, outcome.traceback)
        record = outcome.value if outcome.kind == "done" else failed
        write(record_path(self._work.folder, item), record.model_dump_json(indent=1).encode())
        shutil.rmtree(scratch, ignore_errors=True)
        return True

    def _measure(self, cell: Cell, scratch: Path) -> Record:
        data = self._data(cell)
        if cell.part == "validation":
            if bare := [name for name, task in data.items() if not len(task.val.labels)]:
                raise ValueError(f"Task {bare[0]!r} has no validation images. Give its split val_shots.")
            data = {name: replace(task, test=_UNSEEN) for name, task in data.items()}
        features = FeatureCache(self._clip)
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        groups = self._groups(cell, list(data))
        num_train = {name: len(task.train.keys) for name, task in data.items()}
        steps = num_steps(cell.training, num_train) if cell.method.trains else 0
        training = cell.training.model_copy(update={"max_steps": steps or None})  # the same for groups of any size
        units = [train_unit(id, "plan", tasks, cell.method, training, num_train) for id, tasks in groups.items()]
        began = time.perf_counter()
        found: list[_Measured] = []
        for members in pack(units, 1, MAX_IMAGES_PER_STEP):
            works = [GroupWork(unit.id, unit.tasks, cell.method, scratch / unit.id) for unit in members]
            found += self._train(cell, works, data, training, features)
        seconds = time.perf_counter() - began
        scores = {task: score for group in found for task, score in group.tasks.items()}
        return Record(
            **self._circumstances(cell),
            tasks={task: scores[task] for task in data},
            details={task: told for group in found for task, told in group.details.items()},
            groups=tuple(groups.values()) if cell.plan else (),
            group_shared=sum(group.parameters["group_shared"] for group in found),
            task_specific=sum(group.parameters["task_specific"] for group in found),
            backbone_parameters=self._clip.num_parameters,
            steps=steps,
            images=sum(group.images for group in found),
            train_seconds=sum(group.seconds for group in found),
            seconds=seconds,
            peak_memory_mb=self._peak_memory() / 2**20,
        )

    def _train(
        self,
        cell: Cell,
        works: Sequence[GroupWork],
        data: Mapping[str, TaskData],
        training: TrainConfig,
        features: FeatureCache,
    ) -> list[_Measured]:
        runs: dict[str, GroupRun] = {}

        def keep(run: GroupRun) -> None:
            if cell.part == "validation":  # which leaves no result
                runs[run.work.id] = run

        results = train(
            self._clip,
            works,
            data,
            training,
            should_stop=self._should_stop,
            on_step=keep,
            evaluate=cell.part,
            features=features,
        )
        if cell.part == "validation":
            return [_validated(runs[work.id]) for work in works]
        return [
            _Measured(
                {
                    task: TaskScore(
                        metric=found.metric,
                        score=found.score,
                        metrics=found.metrics,
                        loss=found.loss,
                        num_images=found.num_test,
                    )
                    for task, found in result.results.items()
                },
                result.details,
                result.parameters,
                result.seconds,
                result.images,
            )
            for result in results.values()
        ]

    def _form_groups(self, cell: PlanCell, scratch: Path) -> PlanRecord:
        began = time.perf_counter()
        data = {name: replace(task, test=_UNSEEN) for name, task in self._data(cell).items()}
        path = profile(
            self._clip,
            data,
            cell.profile,
            cell.training,
            cell.method,
            directory=scratch,
            should_stop=self._should_stop,
        )
        with np.load(path, allow_pickle=False) as signatures:
            names = [str(name) for name in signatures["task_names"]]
            plan = make_plan(signatures["gradients"], names, cell.grouping)
        groups = tuple(tuple(name for name in names if name in group.tasks) for group in plan.groups)
        seconds = time.perf_counter() - began
        return PlanRecord(cell=cell, groups=groups, summary=plan.summary, seconds=seconds)

    def _groups(self, cell: Cell, names: list[str]) -> dict[str, tuple[str, ...]]:
        """Group id -> tasks, in their order."""
        if cell.plan is None:
            alone = sharing_of(cell.method) == "alone"
            return {name: (name,) for name in names} if alone else {"all": tuple(names)}
        plan = read_plan(self._work.folder, cell.plan)
        if plan is None or plan.reason is not None:
            raise ValueError(f"the groups could not be formed: {plan.reason if plan else 'their record is missing'}")
        return {f"g{number}": tasks for number, tasks in enumerate(plan.groups, start=1)}

    def _data(self, draw: Draw) -> dict[str, TaskData]:
        """The images of one draw; the last one's stay."""
        if self._loaded[0] != draw.tasks:
            self._loaded = (None, {})
            load = {"roots": self._work.roots, "cache_dir": self._work.cache}
            self._loaded = (draw.tasks, {task.name: load_task(task, self._clip.resize, **load) for task in draw.tasks})
        return self._loaded[1]

    def _peak_memory(self) -> int:
        """In bytes."""
        if self.device != "cpu":
            return torch.cuda.max_memory_allocated()
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _circumstances(self, cell: Cell) -> dict:
        return {
            "cell": cell,
            "date": datetime.now(UTC).date().isoformat(),
            "commit": self._work.commit,
            "hardware": f"{_machine(self.device)}, torch {torch.__version__}, {self._work.threads} threads",
        }


def _validated(run: GroupRun) -> _Measured:
    """A group that was scored on validation images and left no result."""
    scores = {
        task: TaskScore(
            metric=METRICS[data.kind],
            score=run.scores[task],
            metrics={},
            loss=run.val_losses[task],
            num_images=len(data.val.labels),
        )
        for task, data in run.data.items()
    }
    details = {task: found for task in run.work.tasks if (found := run.method.details(task))}
    return _Measured(scores, details, run.method.count_parameters(), run.seconds, run.step * run.images_per_step)


def _machine(device: str) -> str:
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.machine())}, {os.cpu_count()} cores"


def main() -> None:
    """Does the work that standard input brings; a line on standard output for every record written."""
    told, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not pass for ours
    work = WorkerWork.model_validate_json(sys.stdin.readline())
    stopped = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(0, 4096):  # not sys.stdin: a thread that waits in it would hold up the interpreter's end
            pass
        stopped.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    worker = Worker(work, stopped.is_set)
    for item in (*work.plans, *work.cells):
        if stopped.is_set() or not worker.run(item):
            return
        told.write(f"{item.name}\n")
        told.flush()


if __name__ == "__main__":
    main()
