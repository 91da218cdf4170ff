"""What trains in a job's train stage: the plan's groups and the baselines, as units with a cost.

Pure: from the spec, the plan and the sizes that validation found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.spec import Baseline, JobSpec, with_sharing
from workers.launching.search_space import Settings
from workers.launching.work import GroupUnit, Kind, train_unit
from workers.methods.config import MethodConfig, ZeroShotConfig
from workers.training.config import TrainConfig

if TYPE_CHECKING:  # it brings SciPy and scikit-learn, which the first stages of a job do not wait for
    from grouping.plan import Plan

UnitKey = tuple[tuple[str, ...], MethodConfig, TrainConfig]


@dataclass(frozen=True)
class Tuned:
    """The settings that groups and baselines train with: the job's own, or the best that a search found."""

    common: Settings
    """Of the baselines, and of every group without its own."""
    groups: Mapping[str, Settings] = field(default_factory=dict)
    """Group of the plan -> its own best settings, where a search looked for one per group."""


@dataclass(frozen=True)
class TrainUnits:
    """Units by id, and which of them answers for a task in the plan and in every baseline."""

    units: tuple[GroupUnit, ...]
    trainings: Mapping[str, TrainConfig]
    """Unit id -> how it trains."""
    planned: Mapping[str, str]
    """Task -> id of its group in the plan."""
    baselines: Mapping[Baseline, Mapping[str, str]]
    """Baseline -> task -> unit id.  A baseline that is the plan itself (sharing `alone`) names the plan's groups."""


def can_share(method: MethodConfig, class_lists: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether tasks with these classes can have one set of the method's parameters."""
    return not method.needs_equal_classes or len(set(class_lists.values())) <= 1


def train_units(
    spec: JobSpec,
    plan: "Plan",
    num_train: Mapping[str, int],
    class_lists: Mapping[str, tuple[str, ...]],
    tuned: Tuned | None = None,
    zero_shot_parts: Sequence[tuple[str, ...]] | None = None,
) -> TrainUnits:
    """Under one setting every unit takes the same number of steps, so a task sees as many batches in its group as in a
    baseline.  The baseline `all` is left out where the tasks' classes do not let them share the method.  The baseline
    `zero_shot` is one unit, or one for each of the given parts of the tasks."""
    tuned = tuned or Tuned((spec.method, spec.training))
    own_method, own_training = tuned.common
    names = tuple(task.name for task in spec.tasks)
    num_texts = {name: len(classes) for name, classes in class_lists.items()}
    units: dict[UnitKey, GroupUnit] = {}
    trainings: dict[str, TrainConfig] = {}

    def unit(
        id: str, kind: Kind, tasks: tuple[str, ...], method: MethodConfig, training: TrainConfig = own_training
    ) -> str:
        key = (tasks, method, training)
        if key not in units:
            units[key] = train_unit(id, kind, tasks, method, training, num_train, num_texts)
            trainings[id] = training
        return units[key].id

    planned: dict[str, str] = {}
    for group in plan.groups:
        members = tuple(name for name in names if name in group.tasks)
        planned |= dict.fromkeys(members, unit(group.id, "plan", members, *tuned.groups.get(group.id, tuned.common)))
    assert set(planned) == set(names), "a plan holds every task of its job exactly once"

    baselines: dict[Baseline, dict[str, str]] = {}
    for baseline in spec.baselines:
        match baseline:
            case "zero_shot":
                baselines[baseline] = {}
                for number, part in enumerate(zero_shot_parts or [names], start=1):
                    id = "zero-shot" if number == 1 else f"zero-shot-{number}"
                    baselines[baseline] |= dict.fromkeys(part, unit(id, "zero_shot", part, ZeroShotConfig()))
            case "all" if not can_share(own_method, class_lists):
                pass
            case "all":
                method = with_sharing(own_method, "all")
                baselines[baseline] = dict.fromkeys(names, unit("all", "all", names, method))
            case "alone":
                method = with_sharing(own_method, "alone")
                baselines[baseline] = {name: unit(f"alone-{name}", "alone", (name,), method) for name in names}
    return TrainUnits(tuple(units.values()), trainings, planned, baselines)
