"""Stage `validate`: reads every image once and writes what was found, with fingerprints, to `datasets.json`."""

from collections.abc import Mapping
from typing import Any

from service.measurements import step_costs
from service.reading import quoted
from service.spec import NO_VALIDATION, JobSpec, with_sharing
from service.stages.parent import known_datasets, tell_goes_on
from service.stages.run import JobRun, StageFailed
from service.stages.tries import run_alone
from service.stages.units import can_share
from service.states import JobState
from workers import faults
from workers.data.config import TaskConfig
from workers.launching.work import GroupUnit, ValidateWork
from workers.methods.config import MethodConfig, MmAPConfig, ZeroShotConfig

ARTIFACT = "datasets.json"


def validate(run: JobRun) -> None:
    """Writes `datasets.json` unless it is there; of a job that goes on from another, only new tasks are looked at."""
    run.enter(JobState.VALIDATING)
    if run.has(ARTIFACT):
        return
    known = known_datasets(run)
    new = tuple(task for task in run.spec.tasks if task.name not in known)
    generation = 1 + max((task.get("generation", 1) for task in known.values()), default=0)
    looked = _look(run, new) if new else []
    fresh: list[dict[str, Any]] = [task | {"generation": generation} for task in looked]
    found = known | {task["name"]: task for task in fresh}
    check_found(run.spec, found)
    run.check()
    faults.point("driver.datasets.writes")
    run.files.write_json(ARTIFACT, {"tasks": [found[task.name] for task in run.spec.tasks]})
    faults.point("driver.datasets.written")
    tell_goes_on(run)
    unreadable = sum(task["num_unreadable"] for task in fresh)
    images = sum(task["num_train"] + task["num_val"] + task["num_test"] for task in fresh)
    run.event(
        "validated",
        f"{len(fresh)} tasks with {images} images; {unreadable} unreadable.",
        level="warning" if unreadable else "info",
        data={task["name"]: task["num_unreadable"] for task in fresh if task["num_unreadable"]},
    )
    tell_left_out(run, run.spec.method)


def check_found(spec: JobSpec, found: Mapping[str, Mapping[str, Any]]) -> None:
    """StageFailed where the job cannot go on with what its tasks turned out to be: nothing to compare on, or a task
    that alone costs more than a group may."""
    blind = [task.name for task in spec.tasks if not found[task.name]["num_val"]]
    for compared in spec.compared_on_validation if blind else ():
        raise StageFailed(NO_VALIDATION.format(compared=compared, tasks=quoted(blind)))
    cap = spec.grouping.max_group_cost
    costs = step_costs((found[task.name] for task in spec.tasks), spec.training.batch_size)
    dear = [task for task, cost in costs.items() if cap is not None and cost > cap]
    if dear:
        most = max(costs.values())
        raise StageFailed(
            f"grouping.max_group_cost={cap:g}, but a step of {quoted(dear)} alone takes up to {most:g} training "
            f"images. Allow at least {most:g}, or lower training.batch_size={spec.training.batch_size}."
        )


def _look(run: JobRun, tasks: tuple[TaskConfig, ...]) -> list[dict[str, Any]]:
    """Reads every image of the tasks; what was found, one entry a task."""
    return run_alone(run, validation(run, tasks))["tasks"]


def validation(run: JobRun, tasks: tuple[TaskConfig, ...]) -> ValidateWork:
    """The work that looks at the tasks."""
    unit = GroupUnit("validate", "validate", tuple(task.name for task in tasks), ZeroShotConfig())
    common = run.common()
    common["tasks"] = tasks
    return ValidateWork(**common, groups=(unit,), methods=_methods(run.spec))


def tell_left_out(run: JobRun, method: MethodConfig) -> None:
    """An event where the baseline `all` cannot be had with this method over these tasks."""
    if "all" in run.spec.baselines and not can_share(method, class_lists(run)):
        run.event(
            "baseline_left_out",
            f"The baseline all is left out: with these settings {method.kind} is shared only by tasks with the same "
            "class names in the same order, and those of this job differ.",
            level="warning",
        )


def profiled_method(spec: JobSpec) -> MmAPConfig:
    """The shared prompt of the profile: the job's own where it is one."""
    return spec.method if isinstance(spec.method, MmAPConfig) else MmAPConfig()


def _methods(spec: JobSpec) -> tuple[MethodConfig, ...]:
    """What the job will train, as far as it is known before its search and its plan."""
    methods: list[MethodConfig] = [] if spec.trivial_sharing else [profiled_method(spec)]
    if spec.search is None or not any(path.startswith("method.") for path in spec.search.space):
        methods.append(spec.method)
        for baseline in spec.baselines:
            if baseline == "alone" or (baseline == "all" and not spec.method.needs_equal_classes):
                methods.append(with_sharing(spec.method, baseline))
    return tuple(dict.fromkeys(methods))


def class_lists(run: JobRun) -> dict[str, tuple[str, ...]]:
    """Task -> its class names."""
    return {name: tuple(task["class_names"]) for name, task in datasets(run).items()}


def datasets(run: JobRun) -> dict[str, dict[str, Any]]:
    """What validation found, by task."""
    return {task["name"]: task for task in run.files.read_json(ARTIFACT)["tasks"]}


def fingerprints(run: JobRun) -> dict[str, str]:
    """Task -> fingerprint, which later stages hold the data to."""
    return {name: task["fingerprint"] for name, task in datasets(run).items()}
