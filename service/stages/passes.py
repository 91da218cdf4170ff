"""Trains units that have no result yet, costliest first, packed into passes of the device workers.

A pass that fails is split in two and tried again from its checkpoints, until the unit at fault fails alone and its
siblings are done; one whose process vanished is tried again as it was, once.  What a unit that failed alone may try
again is a matter of its class of failure (`tries.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from service.costs import learned_costs
from service.retries import Again, GivenUp
from service.stages.run import Interrupted, JobRun
from service.stages.supervise import Later, supervise
from service.stages.tries import Tries, company_seconds, failure_of, given_up, newest_checkpoint
from service.stages.validate import fingerprints
from workers.failures import FailureClass
from workers.launching.board import Outcome
from workers.launching.cost_model import CostModel
from workers.launching.footprint import Footprint, Room, size_of
from workers.launching.packing import MAX_IMAGES_PER_STEP, longest_first, pack
from workers.launching.work import GroupUnit, PassWork, Work
from workers.training.config import TrainConfig


class Landing(ABC):
    """Where the results of units come down, and what is done about those that fail."""

    evaluate: Literal["test", "validation"]

    @abstractmethod
    def directory(self, unit: GroupUnit) -> Path:
        """For the unit's checkpoints and what it leaves."""

    @abstractmethod
    def is_done(self, unit: GroupUnit) -> bool:
        """Whether its result was taken in."""

    @abstractmethod
    def land(self, units: Sequence[GroupUnit]) -> None:
        """Takes in the results that are there and were not yet, in the middle of a pass as well."""

    @abstractmethod
    def fail(self, unit: GroupUnit, reason: str, failure: FailureClass) -> None:
        """The unit is given up."""


def run_passes(run: JobRun, units: Sequence[GroupUnit], trainings: Mapping[str, TrainConfig], landing: Landing) -> None:
    """Trains every unit to its result or its failure; `trainings` are by unit id.

    A wish ends it with `Interrupted` once all have written their checkpoints.
    """
    model = learned_costs(run.store, run.spec)
    missing = [unit.priced(model) for unit in units if not landing.is_done(unit)]
    if not missing:
        return
    devices = run.spec.resources.devices_per_group
    tries = Tries(run)
    if devices == 1:
        alike: dict[tuple[TrainConfig, int], list[GroupUnit]] = {}  # one pass has one optimiser's settings
        for unit in missing:
            alike.setdefault((trainings[unit.id], tries.microbatches(unit)), []).append(unit)
        passes = _packed(run, list(alike.values()), tries)
    else:
        passes = [[unit] for unit in missing]
    passes.sort(key=_cost, reverse=True)
    if model is not None:
        _tell_expected(run, passes, model)
    fell: list[set[str]] = []
    """Units whose passes were tried again as they were."""

    def pass_work(units: Sequence[GroupUnit]) -> PassWork:
        return _pass_work(run, units, trainings[units[0].id], tries.microbatches(units[0]), landing)

    def on_end(work: Work, outcome: Outcome) -> list[Work | Later]:
        landing.land(work.groups)
        if outcome.kind == "done":
            took = asdict(Footprint(*size_of(work.groups, work.microbatches), **outcome.value["memory"]))
            for unit in work.groups:
                run.update_group(unit.id, memory=took)
        unfinished = [unit for unit in work.groups if not landing.is_done(unit)]
        if len(unfinished) > 1 and not outcome.hits_all:
            return in_company(unfinished, outcome)
        return [later for unit in unfinished for later in alone(unit, outcome)]

    def in_company(units: list[GroupUnit], outcome: Outcome) -> list[Work | Later]:
        ids, failure = {unit.id for unit in units}, failure_of(outcome)
        if failure is FailureClass.PREEMPTION:
            tries.failed_together(units, outcome, "They are tried again")
            return [pass_work(units)]
        if failure is FailureClass.INFRASTRUCTURE and not any(ids <= before for before in fell):
            fell.append(ids)
            seconds = company_seconds(run)
            tries.failed_together(units, outcome, "They are tried again from their last checkpoints", seconds)
            return [Later(pass_work(units), seconds)]
        tries.failed_together(units, outcome, "They are tried in two halves")
        half = (len(units) + 1) // 2
        return [pass_work(part) for part in (units[:half], units[half:])]

    def alone(unit: GroupUnit, outcome: Outcome) -> list[Later]:
        match tries.failed_alone(unit, outcome, newest_checkpoint(landing.directory(unit))):
            case Again(seconds, _):
                return [Later(pass_work([unit]), seconds)]
            case GivenUp(why):
                give_up(unit, outcome, given_up(outcome, why))
        return []

    def give_up(unit: GroupUnit, outcome: Outcome, reason: str) -> None:
        landing.fail(unit, reason, failure_of(outcome))
        run.update_group(unit.id, state="failed", reason=reason)
        run.files.append_log(unit.id, [reason, *outcome.traceback.splitlines()])
        level = "warning" if unit.kind == "trial" else "error"
        told = {"group": unit.id, "failure": failure_of(outcome)}
        run.event("group_failed", f"{unit.id} ({', '.join(unit.tasks)}): {reason}", level=level, data=told)

    run.launcher.announce(run.job, run.attempt, missing, devices=devices)
    try:
        supervise(run, [pass_work(units) for units in passes], on_end, lambda: landing.land(missing))
    except Interrupted:
        landing.land(missing)  # what finished while the others wrote their checkpoints
        raise


def _cost(units: Sequence[GroupUnit]) -> float:
    return sum(unit.cost for unit in units)


def _packed(run: JobRun, alike: Sequence[Sequence[GroupUnit]], tries: Tries) -> list[list[GroupUnit]]:
    """As few passes as there are workers, and as many as it takes for each to fit into its device's memory."""
    workers, room = run.launcher.capacity(), Room(_footprints(run), run.launcher.sharers())

    def fit(units: Sequence[GroupUnit]) -> bool:
        return room.has(units, tries.microbatches(units[0]))

    passes = [members for units in alike for members in pack(units, workers, MAX_IMAGES_PER_STEP, fit)]
    fewer = sum(len(pack(units, workers, MAX_IMAGES_PER_STEP)) for units in alike)
    if len(passes) > fewer:
        run.event(
            "split_for_memory",
            f"{len(passes)} passes and not {fewer}: more groups at a time would not fit into the "
            f"{room.size / 2**20:,.0f} MiB that a device worker may use, as far as what has trained so far tells.",
            data={"passes": [[unit.id for unit in units] for units in passes], "bytes": int(room.size)},
        )
    return passes


def _footprints(run: JobRun) -> list[Footprint]:
    """Of the job's groups that have trained; before the first one has, of its shared prompt, which sends all of the
    job's images and class sentences through the backbone and back."""
    found = {kind: [] for kind in ("shared", "zero_shot", "trained")}
    for group in run.store.groups(run.job):
        if group.memory is not None:
            found.get(group.kind, found["trained"]).append(Footprint(**group.memory))
    return found["trained"] or found["shared"]


def _tell_expected(run: JobRun, passes: Sequence[list[GroupUnit]], model: CostModel) -> None:
    """When the units should be done, as those before them were."""
    try:
        workers = run.launcher.capacity(run.spec.resources.devices_per_group)
    except ValueError:  # a machine is gone: it is waited for, and nobody knows how long
        return
    seconds = max(sum(map(_cost, of_worker)) for of_worker in longest_first(passes, num_bins=workers, cost=_cost))
    units = [unit for units in passes for unit in units]
    what = "trial(s)" if all(unit.kind == "trial" for unit in units) else "group(s) and baselines"
    run.event(
        "expected",
        f"{len(units)} {what} in {len(passes)} pass(es), longest first, on up to {workers} worker(s): "
        f"about {seconds:.0f} s of training steps, as the {model.num_groups} finished before them took.",
        data={"seconds": seconds, "groups": {unit.id: unit.cost for unit in units if unit.num_steps}},
    )


def _pass_work(
    run: JobRun, units: Sequence[GroupUnit], training: TrainConfig, microbatches: int, landing: Landing
) -> PassWork:
    needed = {task for unit in units for task in unit.tasks}
    common = run.common()
    common["tasks"] = tuple(task for task in run.spec.tasks if task.name in needed)
    steps = max(unit.num_steps for unit in units)
    return PassWork(
        **common,
        groups=tuple(units),
        fingerprints=fingerprints(run),
        devices=run.spec.resources.devices_per_group,
        microbatches=microbatches,
        training=training if steps == 0 else training.model_copy(update={"max_steps": steps}),
        directories={unit.id: landing.directory(unit) for unit in units},
        evaluate=landing.evaluate,
    )
