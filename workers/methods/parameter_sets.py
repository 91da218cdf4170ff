"""Methods made of like parameter sets: one for the group, one per task, or both, as `sharing` says."""

from abc import abstractmethod
from collections.abc import Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.base_config import MethodSpec
from workers.methods.method import Method, TaskInfo
from workers.methods.seeding import generator

ParameterSet = dict[str, torch.Tensor]


class SetMethod(Method):
    """A method whose every owner, the group or a task, holds a set of tensors with the same names."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: MethodSpec, *, seed: int):
        super().__init__(clip, tasks, config)
        sharing = getattr(config, "sharing", "alone")
        has_shared = sharing in ("all", "grouped", "grouped+task")
        self._shared = self._made(seed, "shared", None) if has_shared else None
        has_own = sharing in ("alone", "grouped+task")
        self._own = {task.name: self._made(seed, f"task {task.name}", task) for task in tasks} if has_own else {}

    @abstractmethod
    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """A fresh set on the CPU; `task` is None for the group's."""

    def group_shared(self) -> dict[str, torch.Tensor]:
        """The group's set."""
        return self._shared or {}

    def task_specific(self, task: str) -> dict[str, torch.Tensor]:
        """The task's set."""
        return self._own.get(task, {})

    def sets(self, task: str) -> list[ParameterSet]:
        """The sets that act on a task: the group's first, then its own."""
        return [part for part in (self._shared, self._own.get(task)) if part is not None]

    def copies(self, tasks: Sequence[str]) -> tuple[list[list[ParameterSet]], tuple[int, ...]]:
        """The distinct copies that these tasks need, each as the sets that act in it, and every task's copy."""
        if not self._own:
            return [self.sets(tasks[0])], (0,) * len(tasks)
        return [self.sets(task) for task in tasks], tuple(range(len(tasks)))

    def _made(self, seed: int, owner: str, task: TaskInfo | None) -> ParameterSet:
        made = self.new_set(generator(seed, owner), task)
        return {name: tensor.to(self.clip.device).float().requires_grad_() for name, tensor in made.items()}
