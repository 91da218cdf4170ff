"""Methods made of like parameter sets: one for the group, one per task, or both, as `sharing` says."""

from abc import abstractmethod
from collections.abc import Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.base_config import MethodSpec, Sharing
from workers.methods.method import Method, TaskInfo
from workers.methods.seeding import generator

ParameterSet = dict[str, torch.Tensor]


class SetMethod(Method):
    """A method whose owners, the group and the tasks, each hold one set of tensors."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: MethodSpec, *, seed: int):
        super().__init__(clip, tasks, config)
        has_shared, has_own = self.owners()
        self._shared = self._made(seed, "shared", None) if has_shared else None
        self._own = {task.name: self._made(seed, f"task {task.name}", task) for task in tasks} if has_own else {}

    def owners(self) -> tuple[bool, bool]:
        """Whether the group has a set, and whether every task has one."""
        sharing: Sharing = getattr(self.config, "sharing", "alone")
        return sharing != "alone", sharing in ("alone", "grouped+task", "half")

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
