"""Who is told to be hurt by its group: only a task that surely is, and only by a group."""

from pathlib import Path

from service.artifacts import JobFiles
from service.settings import Settings
from service.spec import JobSpec
from service.stages.run import JobRun
from service.stages.train import Trained, name_the_hurt
from service.stages.units import TrainUnits
from service.states import JobState
from service.store import Store
from workers.launching.inline import InlineLauncher
from workers.training.results import GroupResult, TaskResult

NUM_TEST = 300


def unit(id: str, hits: dict[str, int]) -> GroupResult:
    """A unit that got the first so many of its tasks' test images right."""
    results = {
        task: TaskResult(
            task,
            id,
            "accuracy",
            right / NUM_TEST,
            {"accuracy": right / NUM_TEST},
            0.1,
            NUM_TEST,
            None,
            [float(image < right) for image in range(NUM_TEST)],
        )
        for task, right in hits.items()
    }
    return GroupResult(id, tuple(hits), results, [], {"total": 1}, 1.0, 3, 12)


def told(home: Path, planned: dict[str, str], results: list[GroupResult]) -> dict[tuple[str, str], str]:
    """(Task, baseline) -> message of every event, each of which has its metric."""
    tasks = [{"name": task, "source": {"kind": "folder", "uri": task}} for task in planned]
    store, settings = Store("sqlite://"), Settings(home=home)
    store.create_schema()
    spec = JobSpec.model_validate({"name": "job", "backbone": {"model": "demo"}, "tasks": tasks})
    job = store.create_job(spec)[0].id
    files, launcher = JobFiles(settings.storage, job), InlineLauncher()
    run = JobRun(job, store.start_attempt(job), spec, store, files, launcher, settings)
    for state in (JobState.VALIDATING, JobState.PROFILING, JobState.GROUPING, JobState.TRAINING):
        run.enter(state)
    alone = {task: f"alone-{task}" for task in planned}
    units = TrainUnits((), {}, planned, {"alone": alone, "zero_shot": dict.fromkeys(planned, "zero-shot")})
    name_the_hurt(run, Trained(units, {result.group: result for result in results}))
    launcher.close()
    events = [event for event in store.events(job) if event.kind == "harmed"]
    assert all(event.level == "warning" and event.data["low"] <= event.data["high"] < 0 for event in events)
    metrics = {(metric.task, metric.name) for metric in store.metrics(job)}
    assert metrics == {(event.data["task"], f"harm_vs_{event.data['baseline']}") for event in events}
    return {(event.data["task"], event.data["baseline"]): event.message for event in events}


def test_a_task_that_lost_a_few_images_is_not_called_hurt_and_one_that_lost_many_is(tmp_path: Path) -> None:
    planned = {"a": "g1", "b": "g1"}
    grouped, others = {"a": 250, "b": 200}, {"a": 252, "b": 252}
    singles = [unit(f"alone-{task}", {task: right}) for task, right in others.items()]
    found = told(tmp_path, planned, [unit("g1", grouped), *singles, unit("zero-shot", others)])
    assert set(found) == {("b", "alone"), ("b", "zero_shot")}
    assert (
        "b does worse in g1 (66.7 %) than trained alone (84.0 %), on 300 test images: −17.3 points"
        in (found["b", "alone"])
    )
    assert "95 % interval −" in found["b", "alone"]


def test_a_task_that_is_a_group_by_itself_is_held_against_zero_shot_and_not_against_alone(tmp_path: Path) -> None:
    better = unit("zero-shot", {"a": 250})
    found = told(tmp_path, {"a": "g1"}, [unit("g1", {"a": 100}), unit("alone-a", {"a": 250}), better])
    assert set(found) == {("a", "zero_shot")}
