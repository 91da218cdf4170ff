"""The cells of a benchmark: what is measured, and under which name its record lies.  Torch-free.

A cell says all that its outcome depends on but the images and the code; its fingerprint is the sha256 of that.  So a
description that changes measures only what it changed, and a new label or a new order measures nothing.
"""

import hashlib
from typing import Literal

from grouping.config import GroupingConfig
from service.benchmark_spec import BenchSpec, Contestant, forms_groups, merged
from service.spec import sharing_of
from workers.clip.config import BackboneConfig
from workers.data.config import ExplicitSplit, TaskConfig
from workers.methods.config import MethodConfig, MmAPConfig
from workers.spec import Spec
from workers.training.config import ProfileConfig, TrainConfig, decide

Part = Literal["test", "validation"]
"""Which images are scored."""


class Draw(Spec):
    """One draw of training images from the tasks."""

    backbone: BackboneConfig
    tasks: tuple[TaskConfig, ...]
    shots: int | None
    """None: the sizes of the tasks' own splits."""
    seed: int

    def stem(self, *words: str) -> str:
        """A file name that tells people what is in it, and programs that it belongs to exactly this."""
        shots = [] if self.shots is None else [f"{self.shots}shot"]
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        return "-".join([*words, *shots, f"seed{self.seed}", digest[:16]])


class PlanCell(Draw):
    """Groups to form: the shared prompt's training and what is read from it."""

    method: MmAPConfig
    training: TrainConfig
    profile: ProfileConfig
    grouping: GroupingConfig

    @property
    def name(self) -> str:
        """Unique among everything a benchmark writes."""
        return self.stem("plan")


class Cell(Draw):
    """One number of the table before the mean over seeds: a method, trained on one draw and scored on every task."""

    method: MethodConfig
    training: TrainConfig
    part: Part
    plan: PlanCell | None
    """Where the sharing needs groups."""

    @property
    def name(self) -> str:
        """Unique among everything a benchmark writes."""
        return self.stem(self.method.kind, sharing_of(self.method) or "plain")


def cells(spec: BenchSpec, part: Part) -> list[tuple[Contestant, list[Cell]]]:
    """Every contestant with its cells, by shots and then by seed."""
    return [
        (
            contestant,
            [_cell(spec, contestant, shots, seed, part) for shots in sorted_shots(spec) for seed in spec.seeds],
        )
        for contestant in spec.contestants()
    ]


def sorted_shots(spec: BenchSpec) -> list[int | None]:
    """Numbers of shots, fewest first, so that a process's largest memory belongs to what it does last."""
    return [None] if spec.shots is None else [*sorted(spec.shots)]


def _cell(spec: BenchSpec, contestant: Contestant, shots: int | None, seed: int, part: Part) -> Cell:
    tasks = tuple(_drawn(task, shots, seed) for task in spec.tasks)
    plan = PlanCell(
        backbone=spec.backbone,
        tasks=tasks,
        shots=shots,
        seed=seed,
        method=spec.shared_prompt.method.model_copy(update={"sharing": "all"}),
        training=_decided(merged(spec.training, spec.shared_prompt.training), spec.shared_prompt.method, seed),
        profile=spec.profile,
        grouping=spec.grouping,
    )
    return Cell(
        backbone=spec.backbone,
        tasks=tasks,
        shots=shots,
        seed=seed,
        method=contestant.method,
        training=_decided(contestant.training, contestant.method, seed),
        part=part,
        plan=plan if forms_groups(contestant) else None,
    )


def _drawn(task: TaskConfig, shots: int | None, seed: int) -> TaskConfig:
    """The task with the seed's own draw; separate sources for the parts leave nothing to draw."""
    if isinstance(task.split, ExplicitSplit):
        return task
    update = {"seed": seed} | ({} if shots is None else {"shots": shots})
    return task.model_copy(update={"split": task.split.model_copy(update=update)})


def _decided(training: TrainConfig, method: MethodConfig, seed: int) -> TrainConfig:
    """With the seed, and with what the method is published with where nothing was said, so that the record tells it.

    Validation images are scored once, at the end: the last step counts, and nothing is chosen along the way.
    """
    settings = decide(training, method)
    own = {name: getattr(settings, name) for name in ("optimizer", "lr", "weight_decay")}
    return training.model_copy(update={**own, "seed": seed, "validations": 1})
