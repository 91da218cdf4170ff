"""What trains in a job's train stage: the plan's groups and the baselines, as units with a cost.

Pure: from the spec, the plan and the sizes that validation found.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from grouping.plan import Plan
from service.spec import Baseline, JobSpec, with_sharing
from workers.launching.work import GroupUnit, Kind
from workers.methods.config import MethodConfig, ZeroShotConfig
from workers.training.config import TrainConfig

UnitKey = tuple[tuple[str, ...], MethodConfig]


@dataclass(frozen=True)
class TrainUnits:
    """Units by id, and which of them answers for a task in the plan and in every baseline."""

    units: tuple[GroupUnit, ...]
    planned: Mapping[str, str]
    """Task -> id of its group in the plan."""
    baselines: Mapping[Baseline, Mapping[str, str]]
    """Baseline -> task -> unit id.  A baseline that is the plan itself (sharing `alone`) names the plan's groups."""


def train_units(spec: JobSpec, plan: Plan, num_train: Mapping[str, int]) -> TrainUnits:
    """Every unit takes the same number of steps, so a task sees as many batches in its group as in a baseline."""
    steps = num_steps(spec.training, num_train)
    names = tuple(task.name for task in spec.tasks)
    units: dict[UnitKey, GroupUnit] = {}

    def unit(id: str, kind: Kind, tasks: tuple[str, ...], method: MethodConfig) -> str:
        key = (tasks, method)
        if key not in units:
            batch = sum(min(spec.training.batch_size, num_train[task]) for task in tasks)
            units[key] = (
                GroupUnit(id, kind, tasks, method, steps, batch)
                if method.trains
                else GroupUnit(id, kind, tasks, method)
            )
        return units[key].id

    planned: dict[str, str] = {}
    for group in plan.groups:
        members = tuple(name for name in names if name in group.tasks)
        planned |= dict.fromkeys(members, unit(group.id, "plan", members, spec.method))
    assert set(planned) == set(names), "a plan holds every task of its job exactly once"

    baselines: dict[Baseline, Mapping[str, str]] = {}
    for baseline in spec.baselines:
        match baseline:
            case "zero_shot":
                baselines[baseline] = dict.fromkeys(names, unit("zero-shot", "zero_shot", names, ZeroShotConfig()))
            case "all":
                method = with_sharing(spec.method, "all")
                baselines[baseline] = dict.fromkeys(names, unit("all", "all", names, method))
            case "alone":
                method = with_sharing(spec.method, "alone")
                baselines[baseline] = {name: unit(f"alone-{name}", "alone", (name,), method) for name in names}
    return TrainUnits(tuple(units.values()), planned, baselines)


def num_steps(training: TrainConfig, num_train: Mapping[str, int]) -> int:
    """Optimiser steps of every unit: as many as `epochs` passes over the job's longest task take."""
    if training.max_steps is not None:
        return training.max_steps
    return training.epochs * max(-(-count // training.batch_size) for count in num_train.values())
