"""Runs works without computing anything: the same files, rows and outcomes in milliseconds, without torch.

For tests of all that is around training, and for services that only rehearse.  What it "learns" is a function of the
group, its seed and the step alone, so an interrupted group ends with the numbers of an uninterrupted one.
"""

import json
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from workers import faults
from workers.arrays import write_arrays
from workers.data.config import METRICS, TaskConfig
from workers.failures import DataError, FailureClass, classify, is_full
from workers.launching.board import GroupBoard, Outcome, Update
from workers.launching.launcher import Launcher, Running
from workers.launching.search_config import SearchConfig
from workers.launching.work import GroupUnit, MeasureWork, PassWork, ProfileWork, ValidateWork, Work
from workers.storage import has_file, write
from workers.training.results import GroupResult, Progress, TaskResult, ValidationResult

NUM_WEIGHTS = 8
NUM_TRAIN, NUM_VAL, NUM_TEST = 8, 4, 10
"""Images that every task is said to have."""
WEIGHT_BYTES, IMAGE_BYTES = 2**20, 2**18
"""What is said to be in memory: the backbone, and a training image of a step."""
AVAILABLE_BYTES = 2**30
_SIZE = 12
_CHECKPOINT = "fake-checkpoint.json"
_SIGNATURES = "signatures.npz"

Steps = Generator[None, None, Any]


class FakeStopped(Exception):
    """The work was asked to end, and did."""


class FakeRunning(Running):
    """A work that goes a few steps further whenever somebody waits for it."""

    def __init__(self, work: Work, available: int = AVAILABLE_BYTES) -> None:
        super().__init__(work)
        self.boards = {unit.id: GroupBoard(unit.id) for unit in work.groups}
        self.outcome: Outcome | None = None
        self._stopped = False
        self._available = available
        self._steps = _steps(work, self.boards, lambda: self._stopped)

    @property
    def worker(self) -> str:
        return "fake"

    def advance(self, steps: int) -> None:
        """So many steps further, or to the end."""
        for _ in range(steps):
            if self.outcome is not None:
                return
            self.outcome = self._step()

    def poll(self) -> Update:
        progress: list[Progress] = []
        lines: list[tuple[str, str]] = []
        for group, board in self.boards.items():
            rows, texts = board.take()
            progress += rows
            lines += [(group, text) for text in texts]
        return Update(tuple(progress), tuple(lines), self.outcome)

    def stop(self) -> None:
        self._stopped = True

    def abandon(self) -> None:
        """Ends the work where it is, without a checkpoint."""
        self._steps.close()
        if self.outcome is None:
            error = "the work was ended from outside"
            self.outcome = Outcome("failed", error=error, fault=FailureClass.INFRASTRUCTURE)

    def _step(self) -> Outcome | None:
        try:
            next(self._steps)
        except StopIteration as end:
            return Outcome("done", value=end.value | {"memory": _memory(self.work, self._available)})
        except FakeStopped as stopped:
            return Outcome("stopped", error=str(stopped))
        except Exception as error:
            told = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            return Outcome(
                "failed", error=told, fault=classify(error), hits_all=is_full(error), traceback=traceback.format_exc()
            )
        return None


class FakeLauncher(Launcher):
    """Device workers that are not there."""

    def __init__(
        self,
        devices: int = 1,
        *,
        available: int = AVAILABLE_BYTES,
        steps_per_look: int = 2,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            devices: that it claims to have; as many works of one device each run at a time.
            available: bytes of memory that every device is said to have.
            steps_per_look: steps that every work takes while somebody waits for any.
            sleep: how time is spent where nothing runs.
        """
        self._devices = devices
        self._available = available
        self._steps_per_look = steps_per_look
        self._sleep = sleep
        self._started: list[FakeRunning] = []

    def capacity(self, devices: int = 1) -> int:
        if devices > self._devices:
            raise ValueError(f"devices_per_group={devices}: there are {self._devices} fake devices. Use no more.")
        return self._devices // devices

    def sharers(self) -> int:
        return 1

    def check_search(self, search: SearchConfig) -> None:
        raise ValueError("search: a fake launcher tries no settings. Run the job on Ray, or set search to null.")

    def announce(self, job: str, attempt: int, groups: Sequence[GroupUnit], *, devices: int = 1) -> None:
        """Nothing to do: there is nothing to look into from outside."""

    def show_stage(self, job: str, stage: str) -> None:
        """Nothing to do: nobody looks into this process from outside."""

    def start(self, work: Work) -> FakeRunning:
        running = FakeRunning(work, self._available)
        self._started.append(running)
        return running

    def wait(self, running: Sequence[Running], seconds: float) -> None:
        mine = [each for each in running if isinstance(each, FakeRunning)]
        if not mine:
            self._sleep(seconds)
        for each in mine:
            each.advance(self._steps_per_look)

    def close(self) -> None:
        for running in self._started:
            running.abandon()


def fake_dataset(task: TaskConfig) -> dict[str, Any]:
    """What validation "finds" of a task, as `datasets.json` keeps it; nothing is read."""
    names = task.class_names if isinstance(task.class_names, list) else ["one", "two"]
    return {
        "name": task.name,
        "kind": task.kind,
        "class_names": [] if task.kind == "retrieval" else names,
        "template": task.template,
        "num_train": NUM_TRAIN,
        "num_val": NUM_VAL,
        "num_test": NUM_TEST,
        "num_captions": NUM_TRAIN + NUM_VAL + NUM_TEST if task.kind == "retrieval" else 0,
        "num_unreadable": 0,
        "unreadable": [],
        "fingerprint": sha256(task.model_dump_json().encode()).hexdigest(),
    }


def _steps(work: Work, boards: dict[str, GroupBoard], stopped: Callable[[], bool]) -> Steps:
    """The work in steps; what it found comes with its end."""
    for task in work.tasks:
        expected = work.fingerprints.get(task.name)
        if expected is not None and expected != fake_dataset(task)["fingerprint"]:
            raise DataError(f"Task {task.name!r}: its settings changed since the job was validated.")
    yield from _check(stopped)
    match work:
        case ValidateWork():
            return {"tasks": [fake_dataset(task) for task in work.tasks]}
        case ProfileWork():
            return {"signatures": str((yield from _profile(work, boards, stopped)))}
        case PassWork():
            return (yield from _train(work, boards, stopped))
        case _:
            raise ValueError(f"{type(work).__name__}: a fake launcher does not know such a work.")


def _memory(work: Work, available: int) -> dict[str, int]:
    """What a work is said to take: the backbone, and the images of a step."""
    per_task = min(work.training.batch_size, NUM_TRAIN) if isinstance(work, PassWork | ProfileWork) else 0
    images = per_task * sum(len(unit.tasks) for unit in work.groups)
    peak = WEIGHT_BYTES + images * IMAGE_BYTES
    return {"weights": WEIGHT_BYTES, "peak": peak, "available": available, "total": available}


def _check(stopped: Callable[[], bool]) -> Iterator[None]:
    faults.point("fake.step")
    if stopped():
        raise FakeStopped("stopped, as it was asked to")
    yield


def _profile(
    work: ProfileWork, boards: dict[str, GroupBoard], stopped: Callable[[], bool]
) -> Generator[None, None, Path]:
    """signatures.npz as training writes it, of tasks that fall into two camps by their names."""
    path = work.directory / _SIGNATURES
    if has_file(path):
        return path
    (unit,) = work.groups
    config = work.profile
    for step in range(1, config.snapshots + 1):
        if not isinstance(work, MeasureWork):
            boards[unit.id].report(_progress(unit, step, config.snapshots, work.training.seed))
        boards[unit.id].log(f"snapshot {step}/{config.snapshots}")
        yield from _check(stopped)
    shape = (config.snapshots, config.microbatches)
    gradients = np.stack([_gradients(task.name, shape) for task in work.tasks], axis=2)
    centroids = np.stack([_numbers("centroid", task.name, size=4) for task in work.tasks])
    arrays = {
        "gradients": gradients,
        "losses": np.ones((*shape, len(work.tasks)), np.float32),
        "counts": np.full((*shape, len(work.tasks)), 4),
        "steps": np.arange(1, config.snapshots + 1),
        "prompts": np.stack([_numbers("prompt", index, size=_SIZE) for index in range(config.snapshots)]),
        "task_names": np.array([task.name for task in work.tasks]),
        "text_centroids": centroids,
        "image_centroids": centroids,
        "block_names": np.array(["text.0", "image.0"]),
        "block_offsets": np.array([0, _SIZE // 2, _SIZE]),
    }
    write_arrays(path, arrays, "signatures")
    return path


def _train(work: PassWork, boards: dict[str, GroupBoard], stopped: Callable[[], bool]) -> Steps:
    weights: dict[str, np.ndarray] = {}
    positions: dict[str, int] = {}
    for unit in work.groups:
        weights[unit.id], positions[unit.id] = _restored(work, unit)
    done: list[str] = []
    for step in range(1, 1 + max(unit.num_steps for unit in work.groups)):
        for unit in work.groups:
            if positions[unit.id] < step <= unit.num_steps:
                weights[unit.id] = 0.9 * weights[unit.id] + _numbers(*_key(work, unit), step)
                positions[unit.id] = step
                boards[unit.id].report(_progress(unit, step, unit.num_steps, work.training.seed))
                if step % work.training.checkpoint_every == 0:
                    _keep(work, unit, step, weights[unit.id])
        try:
            yield from _check(stopped)
        except FakeStopped:
            for unit in work.groups:
                _keep(work, unit, positions[unit.id], weights[unit.id])
            raise
    for unit in work.groups:
        _finish(work, unit, weights[unit.id])
        done.append(unit.id)
        yield from _check(stopped)
    return {"groups": sorted(done)}


def _restored(work: PassWork, unit: GroupUnit) -> tuple[np.ndarray, int]:
    path = work.directories[unit.id] / _CHECKPOINT
    if not has_file(path):
        return _numbers(*_key(work, unit), 0), 0
    stored = json.loads(path.read_text())
    return np.array(stored["weights"], np.float32), stored["step"]


def _keep(work: PassWork, unit: GroupUnit, step: int, weights: np.ndarray) -> None:
    content = json.dumps({"step": step, "weights": weights.tolist()})
    write(work.directories[unit.id] / _CHECKPOINT, content.encode(), "checkpoint")


def _finish(work: PassWork, unit: GroupUnit, weights: np.ndarray) -> None:
    directory, metrics = work.directories[unit.id], {task.name: METRICS[task.kind] for task in work.tasks}
    images = unit.num_steps * unit.images_per_step
    if work.evaluate == "validation":
        hits = {task: _hits(unit, task, weights, NUM_VAL) for task in unit.tasks}
        ValidationResult(
            group=unit.id,
            tasks=unit.tasks,
            metrics={task: metrics[task] for task in unit.tasks},
            scores={task: float(np.mean(found)) for task, found in hits.items()},
            per_image=hits,
            seconds=0.0,
            steps=unit.num_steps,
            images=images,
        ).write(directory)
        return
    results = {}
    for task in unit.tasks:
        hits, metric = _hits(unit, task, weights, NUM_TEST), metrics[task]
        score = float(np.mean(hits))
        results[task] = TaskResult(task, unit.id, metric, score, {metric: score}, 1.0, NUM_TEST, None, hits)
    GroupResult(
        group=unit.id,
        tasks=unit.tasks,
        results=results,
        curves=[{"step": unit.num_steps, "task": task, "loss": 1.0} for task in unit.tasks if unit.num_steps],
        parameters={"group_shared": NUM_WEIGHTS, "task_specific": 0, "total": NUM_WEIGHTS},
        seconds=0.01 * unit.num_steps,
        steps=unit.num_steps,
        images=images,
    ).write(directory, save({"weights": weights}), save({task: np.zeros((2, 4), np.float32) for task in unit.tasks}))
    (directory / _CHECKPOINT).unlink(missing_ok=True)


def _progress(unit: GroupUnit, step: int, num_steps: int, seed: int) -> Progress:
    losses = dict.fromkeys(unit.tasks, 1.0 / (1 + step))
    return Progress(unit.id, step, num_steps, losses, {}, {}, images_per_second=100.0, lr=0.1)


def _key(work: PassWork, unit: GroupUnit) -> tuple[Any, ...]:
    return unit.id, unit.tasks, work.training.seed


def _numbers(*key: Any, size: int = NUM_WEIGHTS) -> np.ndarray:
    """float32 [size] between -1 and 1, the same for the same key for ever."""
    digest = sha256(repr(key).encode()).digest()
    generator = np.random.default_rng(list(digest[:16]))
    return generator.uniform(-1, 1, size).astype(np.float32)


def _hits(unit: GroupUnit, task: str, weights: np.ndarray, num: int) -> list[float]:
    return (_numbers(task, weights.tolist(), size=num) > 0).astype(float).tolist()


def _gradients(task: str, shape: tuple[int, int]) -> np.ndarray:
    """[snapshots, microbatches, params]: one of two opposite directions, by the task's name, and a little noise."""
    camp = 1.0 if sha256(task.encode()).digest()[0] % 2 else -1.0
    noise = _numbers("noise", task, size=shape[0] * shape[1] * _SIZE).reshape(*shape, _SIZE)
    return (camp * _numbers("direction", size=_SIZE) + 0.3 * noise).astype(np.float32)
