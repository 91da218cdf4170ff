"""An estimate in the place of a job's stages: each is done in small, and what it took is told in `estimate.json`.

It trains nothing that is kept.  A batch that does not fit into memory is an answer, not a failure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.estimates import ARTIFACT
from service.estimation import Sampled, forecast, layouts, out_of_memory, sample_of
from service.retries import Again, GivenUp
from service.stages.run import JobRun, StageFailed
from service.stages.supervise import Later, supervise
from service.stages.tries import Tries, failure_of, given_up
from service.stages.validate import check_found, profiled_method, validation
from service.states import JobState
from service.wire_estimate import Forecast
from workers.failures import FailureClass
from workers.launching.board import Outcome
from workers.launching.estimate_work import EstimateWork, Tried
from workers.launching.footprint import Footprint, Room
from workers.launching.work import GroupUnit, PassWork, ProfileWork, ValidateWork, Work

NUM_STEPS = 8
"""Steps of whatever is tried; the first is not counted."""
START_SECONDS = 60.0
"""A device worker starts within that time; one that takes longer waits for its device, as in a queue."""


class _OutOfMemory(Exception):
    """A work in small ran out of memory."""


def estimate(run: JobRun) -> tuple[JobState, str | None]:
    """Writes `estimate.json` unless it is there; the state that the estimate ends in, and why.

    StageFailed where the job itself would fail, in the same words.
    """
    began = run.store.get_job(run.job).state_since.timestamp()
    run.enter(JobState.VALIDATING)
    if not run.has(ARTIFACT):
        found = _forecast(run, began)
        run.check()
        run.files.write_text(ARTIFACT, found.model_dump_json(indent=1))
        run.event("estimated", found.memory.sentence, level="info" if found.memory.fits else "warning")
    for state in (JobState.GROUPING, JobState.TRAINING, JobState.PUBLISHING):  # nothing is left to do in them
        run.enter(state)
    return JobState.SUCCEEDED, None


def _forecast(run: JobRun, began: float) -> Forecast:
    spec, workers = run.spec, run.launcher.capacity(run.spec.resources.devices_per_group)
    (validated,) = _try(run, [("validate", validation(run, tuple(spec.tasks)))])
    tasks = {task["name"]: task for task in validated.tasks}
    check_found(spec, tasks)
    try:
        profiled = _try(run, _profile(run))
        room = Room([_footprint(each, tasks) for each in profiled], run.launcher.sharers())
        ways = layouts(spec, list(tasks.values()), workers, room.has)
        passes = [members for way in ways for members in way[:workers]]  # the costliest, as many as run at a time
        works = [(f"pass-{number}", _pass(run, members)) for number, members in enumerate(passes, start=1)]
        trained = _try(run, works)
    except _OutOfMemory as error:
        return out_of_memory(spec, validated, workers, str(error))
    found = Sampled(
        validation=validated,
        profile=profiled[0] if profiled else None,
        passes=list(zip(passes, trained, strict=True)),
        waited=min(max(0.0, validated.began_at - began), START_SECONDS),
    )
    return forecast(spec, found, ways, workers)


def _try(run: JobRun, works: Sequence[tuple[str, ValidateWork | ProfileWork | PassWork]]) -> list[Tried]:
    """What every work in small took; as many at a time as the job would run.  _OutOfMemory."""
    found: dict[str, Tried] = {}
    tries = Tries(run)

    def on_end(work: Work, outcome: Outcome) -> list[Later]:
        if outcome.fault == FailureClass.OUT_OF_MEMORY:
            raise _OutOfMemory(outcome.error)
        (unit,) = work.groups
        if outcome.kind == "done":
            found[unit.id] = Tried.of_json(outcome.value)
            return []
        match tries.failed_alone(unit, outcome, ""):
            case Again(seconds, _):
                return [Later(work, seconds)]
            case GivenUp(why):
                raise StageFailed(given_up(outcome, why), outcome.traceback, failure_of(outcome))

    small = []
    for name, work in works:
        common = run.common()
        common["tasks"] = work.tasks
        unit = GroupUnit(f"estimate-{name}", "estimate", tuple(task.name for task in work.tasks), run.spec.method)
        small.append(EstimateWork(**common, groups=(unit,), of=work, sample=sample_of(run.spec), num_steps=NUM_STEPS))
    if small:
        supervise(run, small, on_end)
    return [found[work.groups[0].id] for work in small]


def _profile(run: JobRun) -> list[tuple[str, ProfileWork]]:
    """The profile's work; none for a job without one."""
    if run.spec.trivial_sharing is not None:
        return []
    run.enter(JobState.PROFILING)
    method, names = profiled_method(run.spec), tuple(task.name for task in run.spec.tasks)
    unit = GroupUnit("shared", "shared", names, method)
    work = ProfileWork(
        **run.common(),
        groups=(unit,),
        profile=run.spec.profile,
        training=run.spec.training,
        method=method,
        directory=run.files.path("profile"),
    )
    return [("profile", work)]


def _footprint(profiled: Tried, tasks: Mapping[str, Mapping[str, Any]]) -> Footprint:
    """Of a step of the shared prompt over all tasks; a retrieval task has as many captions as images, at most."""
    texts = sum(len(task["class_names"]) for task in tasks.values()) or profiled.images
    return Footprint(profiled.images, texts, profiled.weights, profiled.peak, profiled.available, profiled.total)


def _pass(run: JobRun, members: tuple[GroupUnit, ...]) -> PassWork:
    """A pass as the job would run it; over several devices, what one of them does."""
    needed = {task for unit in members for task in unit.tasks}
    common = run.common()
    common["tasks"] = tuple(task for task in run.spec.tasks if task.name in needed)
    share = -(-run.spec.training.batch_size // run.spec.resources.devices_per_group)
    training = run.spec.training.model_copy(update={"batch_size": share})
    folders = {unit.id: run.files.path(f"groups/{unit.id}") for unit in members}
    return PassWork(**common, groups=members, training=training, directories=folders)
