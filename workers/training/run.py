"""One group on its way through training: its method, optimiser and position, and how they are saved and resumed."""

import hashlib
import json
import math
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from workers.clip.frozen import FrozenCLIP
from workers.data.dataset import TaskData
from workers.methods.build import build_method
from workers.methods.config import MethodConfig
from workers.methods.method import Method, TaskInfo
from workers.training.batches import images_per_step, steps_per_epoch
from workers.training.checkpoint import (
    load_checkpoint,
    pack_tensors,
    remove_checkpoints,
    save_checkpoint,
)
from workers.training.config import TrainConfig, TrainSettings, decide
from workers.training.evaluate import Scores, class_features, score
from workers.training.features import FeatureCache, task_features
from workers.training.forward import ClassLists
from workers.training.results import GroupResult, Progress, TaskResult, ValidationResult
from workers.training.schedule import learning_rate

CURVE_POINTS = 200
"""Loss points kept per task."""


@dataclass(frozen=True)
class GroupWork:
    """One group to train: its tasks, its method, and the directory for its checkpoints and result."""

    id: str
    tasks: tuple[str, ...]
    method: MethodConfig
    directory: Path


def task_infos(data: Mapping[str, TaskData]) -> list[TaskInfo]:
    """What a method is told of tasks."""
    return [
        TaskInfo(task.name, task.class_names, task.template, task.kind, len(task.train.labels))
        for task in data.values()
    ]


class GroupRun:
    """The mutable state of one group's training."""

    def __init__(
        self,
        clip: FrozenCLIP,
        work: GroupWork,
        data: Mapping[str, TaskData],
        config: TrainConfig,
        lists: ClassLists,
        features: FeatureCache,
        check: Callable[[], None] = lambda: None,
    ):
        self.work = work
        self.data = {task: data[task] for task in work.tasks}
        self.config = config = decide(config, work.method)
        self.method: Method = build_method(work.method, clip, task_infos(self.data), seed=config.seed)
        self.features = task_features(features, lists, self.method, self.data, config, check)
        self.epoch_steps = steps_per_epoch(list(self.data.values()), config)
        trains = work.method.trains
        self.num_steps = (config.max_steps or config.epochs * self.epoch_steps) if trains else 0
        self.images_per_step = sum(images_per_step(task, config) for task in self.data.values())
        self.step = 0
        self.seconds = 0.0
        self.curves: list[dict] = []
        self.losses: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self.val_losses: dict[str, float] = {}
        self.validated_at = -1
        self._validated: dict[str, Scores] = {}
        self._warnings: tuple[tuple[str, str], ...] = ()
        self._optimizer = _build_optimizer(self.method.parameters(), config) if trains else None
        is_half = clip.image.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(clip.device.type, enabled=is_half)
        self._fingerprint = _fingerprint(work, self.data, config)
        self._clip, self._lists = clip, lists

    def fit(self) -> None:
        """What the method wants to know of the training data before its first step."""
        if self.method.needs_fit:
            self.method.fit(self.features.__getitem__)

    @property
    def batch_key(self) -> object:
        """Runs with equal keys can train in one forward pass."""
        return self.method.batch_key or self.work.id

    @property
    def is_done(self) -> bool:
        """All steps taken."""
        return self.step >= self.num_steps

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return learning_rate(
            self.config,
            step=self.step,
            num_steps=max(self.num_steps, 1),
            steps_per_epoch=self.epoch_steps,
        )

    def apply_gradients(self, losses: Mapping[str, float], seconds: float) -> None:
        """One optimiser step with the gradients that backward left, then on to the next position."""
        assert self._optimizer is not None
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr
        for parameter in self.method.group_shared().values():
            if parameter.grad is not None:
                parameter.grad.mul_(self.method.group_gradient_scale)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.losses = dict(losses)
        if self.step % max(1, self.num_steps // CURVE_POINTS) == 0 or self.step == self.num_steps - 1:
            self.curves += [{"step": self.step, "task": task, "loss": loss} for task, loss in losses.items()]
        self.step += 1
        self.seconds += seconds

    @property
    def is_validation_due(self) -> bool:
        """At a few steps spread evenly over the run, once each; at once where nothing trains."""
        parts = range(1, self.config.validations + 1)
        due = (
            {max(1, round(self.num_steps * part / self.config.validations)) for part in parts}
            if self.num_steps
            else {0}
        )
        return self.step in due and self.validated_at != self.step

    def validate(self, check: Callable[[], None]) -> None:
        """Scores every task that has validation images; `check` raises to interrupt, and then nothing has changed."""
        tasks = [task for task, data in self.data.items() if len(data.val.labels)]
        texts = class_features(self._clip, self.method, self._lists) if tasks else {}
        self._validated = found = {task: self._score(task, "val", texts, check) for task in tasks}
        self.scores = {task: scores.score for task, scores in found.items()}
        self.val_losses = {task: scores.loss for task, scores in found.items()}
        self.curves += [{"step": self.step, "task": task, "val_score": value} for task, value in self.scores.items()]
        self.validated_at = self.step

    def finish(self, check: Callable[[], None]) -> GroupResult:
        """Scores every task on its test images and writes the result; checkpoints are then no longer needed."""
        texts = class_features(self._clip, self.method, self._lists)
        results = {}
        for task, data in self.data.items():
            scores = self._score(task, "test", texts, check)
            results[task] = TaskResult(
                task=task,
                group=self.work.id,
                metric=scores.metric,
                score=scores.score,
                metrics=scores.metrics,
                loss=scores.loss,
                num_test=len(data.test.labels),
                val_score=self.scores.get(task),
                per_image=scores.per_image.tolist(),
            )
        self.refuse_non_finite({task: found.loss for task, found in results.items()})
        details = {task: found for task in self.work.tasks if (found := self.method.details(task))}
        result = GroupResult(
            group=self.work.id,
            tasks=self.work.tasks,
            results=results,
            curves=self.curves,
            parameters=self.method.count_parameters(),
            seconds=self.seconds,
            steps=self.step,
            images=self.step * self.images_per_step,
            details=details,
        )
        result.write(self.work.directory, pack_tensors(self.method.state()), pack_tensors(texts))
        remove_checkpoints(self.work.directory)
        return result

    def finish_validation(self, check: Callable[[], None]) -> ValidationResult:
        """Writes how the validation images were scored at the end; nothing looks at test images."""
        if not self._validated:  # stopped between the last validation and here
            self.validate(check)
        self.refuse_non_finite(self.val_losses)
        found = self._validated
        result = ValidationResult(
            group=self.work.id,
            tasks=self.work.tasks,
            metrics={task: scores.metric for task, scores in found.items()},
            scores=self.scores,
            per_image={task: scores.per_image.tolist() for task, scores in found.items()},
            seconds=self.seconds,
            steps=self.step,
            images=self.step * self.images_per_step,
        )
        result.write(self.work.directory)
        remove_checkpoints(self.work.directory)
        return result

    def _score(
        self, task: str, part: Literal["val", "test"], texts: Mapping[str, torch.Tensor], check: Callable[[], None]
    ) -> Scores:
        cached = (self.features[task], part) if self.method.config.feature_side else None
        images = getattr(self.data[task], part)
        return score(self._clip, self.method, task, images, texts.get(task), check, cached=cached)

    def progress(self) -> Progress:
        """What to tell whoever watches; a warning is told once."""
        warnings, self._warnings = self._warnings, ()
        return Progress(
            group=self.work.id,
            step=self.step,
            num_steps=self.num_steps,
            losses=self.losses,
            scores=dict(self.scores),
            val_losses=dict(self.val_losses),
            images_per_second=self.step * self.images_per_step / self.seconds if self.seconds else 0.0,
            lr=self.lr,
            device_bytes=_held_bytes(self._clip.device),
            warnings=warnings,
        )

    def save(self) -> None:
        """Commits a checkpoint of the present position."""
        tensors = {f"learned/{name}": tensor for name, tensor in self.method.state().items()}
        if self._optimizer is not None:
            for index, state in self._optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items() if torch.is_tensor(value)}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "curves": self.curves,
            "losses": self.losses,
            "scores": self.scores,
            "val_losses": self.val_losses,
            "validated_at": self.validated_at,
            "scaler": self.scaler.state_dict(),
            "settings": self._fingerprint,
        }
        save_checkpoint(self.work.directory, tensors, state)

    def resume(self) -> bool:
        """Goes on from the newest whole checkpoint.  False if there is none.

        ValueError if it was written under other settings: going on would mix two runs.
        """
        found = load_checkpoint(self.work.directory)
        checkpoint = found.checkpoint
        if found.damaged:
            on = "from its start" if checkpoint is None else f"from step {checkpoint.state['step']}, saved before it"
            told = f"{self.work.id} goes on {on}: {' '.join(found.damaged)}"
            self.warn("checkpoint_corrupt", told)
        if checkpoint is None:
            return False
        if checkpoint.state["settings"] != self._fingerprint:
            raise ValueError(
                f"group {self.work.id!r}: the checkpoint in {self.work.directory} was written with other tasks, "
                f"data or "
                "settings. Start a new job, or remove the checkpoint."
            )
        prefix = "learned/"
        self.method.load_state(
            {name.removeprefix(prefix): value for name, value in checkpoint.tensors.items() if name.startswith(prefix)}
        )
        self._load_optimizer(checkpoint.tensors)
        self.scaler.load_state_dict(checkpoint.state["scaler"])
        for name in ("step", "seconds", "curves", "losses", "scores", "val_losses", "validated_at"):
            setattr(self, name, checkpoint.state[name])
        return True

    def warn(self, kind: str, text: str) -> None:
        """Something for the user to hear, with the next progress."""
        self._warnings = (*self._warnings, (kind, text))

    def refuse_non_finite(self, losses: Mapping[str, float], gradient_norm: float = 0.0) -> None:
        """Stops the run at the first loss or gradient that is no number, before it reaches the parameters, and names
        where it happened.  In fp16 the scaler passes such a gradient over and goes on with a lower scale."""
        for task, loss in losses.items():
            if not math.isfinite(loss):
                raise ValueError(
                    f"Task {task!r} in group {self.work.id!r}: loss is {loss} at step {self.step} with learning "
                    f"rate {self.lr:g}. "
                    "Lower training.lr, or use precision bf16 or fp32."
                )
        if not math.isfinite(gradient_norm) and not self.scaler.is_enabled():
            raise ValueError(
                f"Group {self.work.id!r} ({', '.join(self.work.tasks)}): the gradient's norm is {gradient_norm} at "
                f"step {self.step} with learning rate {self.lr:g}. Lower training.lr, or use precision fp32."
            )

    def _load_optimizer(self, tensors: Mapping[str, torch.Tensor]) -> None:
        if self._optimizer is None:
            return
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": state})


def _held_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _build_optimizer(parameters: list[torch.Tensor], config: TrainSettings) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, eps=1e-6)


def _fingerprint(work: GroupWork, data: Mapping[str, TaskData], config: TrainSettings) -> str:
    """What must be equal for a checkpoint to be gone on with."""
    told = [
        work.method.model_dump_json(),
        config.model_dump_json(exclude={"checkpoint_every"}),
    ]
    told += [f"{task} {data[task].fingerprint}" for task in work.tasks]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
