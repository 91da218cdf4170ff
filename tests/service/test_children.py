"""Laws of jobs that go on from a finished one: new tasks join its groups, and a plan of it runs again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grouping.given import plan_of_groups
from grouping.plan import Plan
from service.children import add_tasks
from service.errors import Conflict, IdempotencyConflict, JobNotFound, SpecError
from service.measurements import read_measurement
from service.planning import Planner
from service.stages.inherit import inherit_search
from service.stages.parent import parent_of
from service.stages.run import JobRun
from service.states import Desired, JobState
from service.store import Store
from workers.bundle import load_bundle
from workers.launching.inline import InlineLauncher
from workers.training.results import LEARNED, TEXT_FEATURES, GroupResult

pytestmark = pytest.mark.slow

FAMILIES: dict[str, tuple[dict[str, tuple[int, int, int]], str]] = {
    "a": ({"car": (31, 51, 137), "two": (197, 34, 167), "train": (184, 190, 208)}, "one wobbly {} in ink."),
    "b": ({"apple": (61, 123, 37), "train": (67, 204, 164)}, "{} far away, in the north."),
    "c": ({"car": (21, 201, 159), "apple": (74, 175, 109), "three": (200, 235, 80), "sea": (121, 66, 169)}, "the {}"),
}
"""Family -> the colour of every class, and the words around it; their gradients oppose each other."""
STAGES = (JobState.PROFILING, JobState.GROUPING, JobState.TRAINING, JobState.PUBLISHING)


class Killed(BaseException):
    """Stands for `kill -9`: nothing in the driver may catch it."""


class DyingStore(Store):
    """A store in front of which the driver dies, right before it enters a state."""

    dies_before: JobState | None = None

    def move(self, job_id: str, to: JobState, **fields: Any) -> bool:
        if to == self.dies_before:
            self.dies_before = None
            raise Killed
        return super().move(job_id, to, **fields)


@pytest.fixture
def task(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """`task("a3")`: a task of family a, with pictures of its own."""

    def make(name: str) -> dict[str, Any]:
        classes, template = FAMILIES[name[0]]
        rng = np.random.default_rng([*name.encode()])
        folder = tmp_path / "data" / name
        for label, colour in classes.items() if not folder.exists() else ():
            (folder / label).mkdir(parents=True)
            for number in range(16):
                pixels = np.clip(np.array(colour) + rng.integers(-25, 25, size=(16, 16, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number:02d}.png")
        split = {"shots": 12, "val_shots": 2}
        return {"name": name, "source": {"kind": "folder", "uri": str(folder)}, "split": split, "template": template}

    return make


@pytest.fixture
def family_spec(make_spec, task):
    """A job of two tasks of family a and two of family b, in two groups."""

    def make(**changes: Any):
        values: dict[str, Any] = {
            "tasks": [task(name) for name in ("a1", "a2", "b1", "b2")],
            "grouping": {"num_groups": 2},
            "profile": {"max_steps": 3, "snapshots": 3, "microbatches": 4, "microbatch_size": 12},
        }
        return make_spec(**values | changes)

    return make


def finished(world, spec) -> str:
    job = world.submit(spec)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    return job


def added(world, job: str, tasks: list[dict[str, Any]], **more: Any) -> str:
    body = json.dumps({"tasks": tasks, **more}).encode()
    child, _ = add_tasks(world.store, world.settings, job, body, json_only=True, idempotency_key=None)
    return child.id


def groups(world, job: str) -> dict[str, list[str]]:
    """Of the plan that trained."""
    (plan,) = [plan for plan in world.store.plans(job) if plan.approved]
    return {group: list(tasks) for group, tasks in plan.outline.groups.items()}


def told(world, job: str, kind: str) -> list[Any]:
    return [event for event in world.store.events(job) if event.kind == kind]


def steps(world, job: str) -> dict[str, int]:
    """Group -> optimiser steps that this job took itself."""
    metrics = world.store.metrics(job, name="loss", limit=10_000)
    return {group: max(m.step for m in metrics if m.group == group) for group in {m.group for m in metrics}}


def result(world, job: str, group: str) -> GroupResult:
    found = GroupResult.read(world.folder(job) / "groups" / group)
    assert found is not None
    return found


def test_newcomers_join_their_family_and_only_what_changes_is_trained(make_world, family_spec, task):
    world = make_world()
    parent = finished(world, family_spec())
    assert groups(world, parent) == {"g1": ["a1", "a2"], "g2": ["b1", "b2"]}
    child = added(world, parent, [task("a3"), task("c1")])
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)

    assert groups(world, child) == {"g1": ["a1", "a2", "a3"], "g2": ["b1", "b2"], "g3": ["c1"]}
    plan = world.files(child).read_json("plans/0.json")
    assert plan["origin"] == "joined" and "a3 joins g1" in plan["summary"] and "c1 starts g3" in plan["summary"]
    assert set(steps(world, child)) == {"g1", "g3", "alone-a3", "alone-c1"}
    assert set(told(world, child, "taken_over")[0].data["groups"]) == {
        *("g2", "zero-shot", "alone-a1", "alone-a2", "alone-b1", "alone-b2")
    }
    for group in ("g2", "zero-shot", "alone-a1"):
        for name in (LEARNED, TEXT_FEATURES):
            copied, own = (world.folder(job) / "groups" / group / name for job in (child, parent))
            assert copied.read_bytes() == own.read_bytes()
        assert result(world, child, group) == result(world, parent, group)

    scores = {(row.task, row.baseline) for row in world.store.results(child)}
    assert scores == {(t, b) for t in ("a1", "a2", "b1", "b2", "a3", "c1") for b in (None, "zero_shot", "alone")}
    assert told(world, child, "baseline_left_out") and {g.state for g in world.store.groups(child)} == {"done"}
    assert "shared" not in {group.id for group in world.store.groups(child)}

    bundle = load_bundle(world.folder(child) / "bundle")
    bundle.verify()
    image = next((world.folder(child).parents[3] / "data").rglob("a3/*/*.png"))
    assert bundle.classifier("a3").predict([image])[0] in FAMILIES["a"][0]
    old = load_bundle(world.folder(parent) / "bundle").classifier("b1").logits([image])
    assert np.array_equal(bundle.classifier("b1").logits([image]), old)
    assert bundle.classifier("c1").logits([image]).shape == (1, 4)
    with pytest.raises(ValueError, match="'a3' is not in this bundle"):
        load_bundle(world.folder(parent) / "bundle").classifier("a3")


def test_a_newcomer_is_measured_as_if_it_had_been_there(make_world, family_spec, task):
    world = make_world()
    parent = finished(world, family_spec(baselines=[]))
    child = added(world, parent, [task("a3")])
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
    with (
        np.load(world.folder(parent) / "profile" / "signatures.npz") as known,
        np.load(world.folder(child) / "profile" / "signatures.npz") as found,
    ):
        assert found["task_names"].tolist() == ["a1", "a2", "b1", "b2", "a3"]
        for name in known.files:
            if name in ("gradients", "losses", "counts"):
                assert np.array_equal(found[name][:, :, :4], known[name])
            elif name in ("task_names", "text_centroids", "image_centroids"):
                assert np.array_equal(found[name][:4], known[name])
            else:
                assert np.array_equal(found[name], known[name])
        assert found["gradients"].shape[2] == found["image_centroids"].shape[0] == 5


def test_only_new_tasks_and_groups_that_change_need_their_images(make_world, family_spec, task, tmp_path: Path):
    world = make_world()
    parent = finished(world, family_spec())
    (tmp_path / "data" / "b1").rename(tmp_path / "elsewhere")  # of the group that does not change
    child = added(world, parent, [task("a3")])
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)

    next((tmp_path / "data" / "a1").rglob("*.png")).write_bytes((tmp_path / "data/a2/two/00.png").read_bytes())
    another = added(world, parent, [task("a4")])
    assert world.attempt(another) == JobState.PARTIALLY_SUCCEEDED
    reason = world.why(another)
    assert "g1" in reason and "'a1'" in reason and "changed since the job was validated" in reason
    assert {group.id: group.state for group in world.store.groups(another)}["g2"] == "done"


def test_a_child_of_a_child_goes_on_from_its_parent_alone(make_world, family_spec, task):
    world = make_world()
    first = finished(world, family_spec(baselines=["zero_shot"]))
    second = added(world, first, [task("c1")])
    assert world.attempt(second) == JobState.SUCCEEDED, world.why(second)
    for path in sorted((world.folder(first)).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    third = added(world, second, [task("c2"), task("b3")], name="third")
    assert world.attempt(third) == JobState.SUCCEEDED, world.why(third)
    assert groups(world, third) == {"g1": ["a1", "a2"], "g2": ["b1", "b2", "b3"], "g3": ["c1", "c2"]}
    assert set(steps(world, third)) == {"g2", "g3"}
    zero_shot = {group.id: group.tasks for group in world.store.groups(third) if group.kind == "zero_shot"}
    assert zero_shot == {"zero-shot": ("a1", "a2", "b1", "b2"), "zero-shot-2": ("c1",), "zero-shot-3": ("c2", "b3")}
    assert {row.task for row in world.store.results(third) if row.baseline == "zero_shot"} == {
        *("a1", "a2", "b1", "b2", "b3", "c1", "c2")
    }
    job = world.store.get_job(third)
    assert (job.name, job.parent) == ("third", second)
    load_bundle(world.folder(third) / "bundle").verify()


def test_another_plan_runs_again_with_the_groups_that_are_equal_whatever_their_ids(make_world, family_spec):
    world = make_world()
    parent = finished(world, family_spec())
    asked = {"g1": ["a1"], "g5": ["a2"], "g7": ["b1", "b2"]}
    plan = plan_of_groups(
        read_measurement(world.files(parent)), asked, family_spec().grouping, origin="edited", summary="Asked for."
    )
    save: Callable[[int], object] = lambda n: world.files(parent).write_text(f"plans/{n}.json", plan.model_dump_json())  # noqa: E731
    number = world.store.add_plan(parent, plan.outline(), save)
    child, _ = Planner(world.store, world.settings).run(parent, number, idempotency_key=None)
    assert world.attempt(child.id) == JobState.SUCCEEDED, world.why(child.id)

    assert groups(world, child.id) == asked
    again = Plan.model_validate_json(world.files(child.id).read_text("plans/0.json"))
    assert again == plan
    assert set(steps(world, child.id)) == {"g1", "g5"}
    mine, theirs = result(world, child.id, "g7"), result(world, parent, "g2")
    assert mine.group == "g7" and {found.group for found in mine.results.values()} == {"g7"}
    assert {task: found.per_image for task, found in mine.results.items()} == {
        task: found.per_image for task, found in theirs.results.items()
    }
    learned = world.learned(child.id)
    assert learned["g7"] == world.learned(parent)["g2"] and learned["all"] == world.learned(parent)["all"]
    assert {row.baseline for row in world.store.results(child.id)} == {None, "zero_shot", "alone", "all"}
    assert told(world, child.id, "validated")[0].message.startswith("0 tasks")


@pytest.mark.parametrize("boundary", STAGES)
def test_a_killed_attempt_is_continued_at_the_stage_whose_artifact_is_missing(make_world, family_spec, task, boundary):
    world = make_world(DyingStore("sqlite://"))
    parent = finished(world, family_spec(baselines=["zero_shot"]))
    undisturbed, child = (added(world, parent, [task("a3")]) for _ in range(2))
    assert world.attempt(undisturbed) == JobState.SUCCEEDED, world.why(undisturbed)
    world.store.dies_before = boundary
    with pytest.raises(Killed):
        world.attempt(child)
    written = {path: path.stat().st_mtime_ns for path in world.folder(child).rglob("*.np*") if path.is_file()}
    world.store.move(child, JobState.QUEUED, attempt=None)
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert groups(world, child) == groups(world, undisturbed)
    assert world.learned(child) == world.learned(undisturbed)


def test_what_the_parent_could_not_train_is_trained(make_world, family_spec, task):
    world = make_world()
    parent = world.submit(family_spec(baselines=[]))
    (world.folder(parent) / "groups").mkdir(parents=True)
    (world.folder(parent) / "groups" / "g2").write_text("a file where the group's folder should be")
    assert world.attempt(parent) == JobState.PARTIALLY_SUCCEEDED
    child = added(world, parent, [task("c1")])
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
    assert set(steps(world, child)) == {"g2", "g3"}


def test_a_damaged_result_of_the_parent_is_told_and_trained_again(make_world, family_spec, task):
    world = make_world()
    parent = finished(world, family_spec(baselines=[]))
    (world.folder(parent) / "groups" / "g2" / LEARNED).write_bytes(b"not what was written")
    child = added(world, parent, [task("c1")])
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
    assert set(steps(world, child)) == {"g2", "g3"}
    assert "g2 is trained again" in told(world, child, "result_damaged")[0].message


@pytest.mark.parametrize("scope", ["job", "group"])
def test_settings_that_a_search_found_are_kept_by_tasks_else_by_id(make_world, family_spec, task, scope):
    world = make_world()
    parent = finished(world, family_spec(baselines=[]))
    best = {"job": ["job"], "group": ["g1", "g2"]}[scope]
    found = {"metric": "val_score", "scope": scope, "searches": {name: {"best": name} for name in best}}
    world.files(parent).write_json("search.json", found)
    child = added(world, parent, [task("c1")])
    spec = world.store.get_job(child).spec
    attempt = world.store.start_attempt(child)
    run = JobRun(child, attempt, spec, world.store, world.files(child), InlineLauncher(), world.settings)
    goes_on = parent_of(run)
    assert goes_on is not None
    asked = {"g1": ["a1", "a2", "c1"], "g4": ["b1", "b2"], "g5": ["a3"]}
    plan = Plan.model_validate_json(world.files(parent).read_text("plans/0.json"))
    groups = [plan.groups[0].model_copy(update={"id": id, "tasks": tasks}) for id, tasks in asked.items()]
    inherit_search(run, goes_on, plan.model_copy(update={"groups": groups}))
    kept = world.files(child).read_json("search.json")["searches"]
    assert kept == ({"job": {"best": "job"}} if scope == "job" else {"g1": {"best": "g1"}, "g4": {"best": "g2"}})
    run.launcher.close()


def test_full_and_pinned_groups_stay_as_they_are(make_world, family_spec, task):
    world = make_world()
    full = finished(world, family_spec(baselines=[], grouping={"num_groups": 2, "max_group_size": 2}))
    pinned = finished(world, family_spec(baselines=[], grouping={"pinned": [["a1", "a2"], ["b1", "b2"]]}))
    for parent in (full, pinned):
        before = groups(world, parent)
        child = added(world, parent, [task("a3")])
        assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
        assert groups(world, child) == {**before, "g3": ["a3"]}


def test_a_joined_plan_waits_for_approval_where_the_parents_did(make_world, family_spec, task):
    world = make_world()
    parent = world.submit(family_spec(baselines=[], grouping={"num_groups": 2, "approve": True}))
    assert world.attempt(parent) == JobState.AWAITING_APPROVAL
    world.store.approve_plan(parent, 0)
    assert world.attempt(parent) == JobState.SUCCEEDED, world.why(parent)
    child = added(world, parent, [task("a3")])
    assert world.attempt(child) == JobState.AWAITING_APPROVAL, world.why(child)
    world.store.approve_plan(child, 0)
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
    again, _ = Planner(world.store, world.settings).run(parent, 0, idempotency_key=None)
    assert world.attempt(again.id) == JobState.SUCCEEDED, world.why(again.id)
    assert steps(world, again.id) == {}


def test_a_newcomer_with_too_few_images_to_be_measured_is_named(make_world, family_spec, task):
    world = make_world()
    parent = finished(world, family_spec(baselines=[]))
    small = task("b3") | {"split": {"shots": 1, "val_shots": 1}}
    child = added(world, parent, [small])
    assert world.attempt(child) == JobState.FAILED
    assert "'b3' has 2 training images" in world.why(child) and "at least 4" in world.why(child)


def test_lost_files_of_the_parent_are_named(make_world, family_spec, task):
    world = make_world()
    parent = finished(world, family_spec(baselines=[]))
    child = added(world, parent, [task("a3")])
    (world.folder(parent) / "profile" / "signatures.npz").unlink()
    assert world.attempt(child) == JobState.FAILED
    assert f"goes on from {parent}, whose file profile/signatures.npz is gone" in world.why(child)
    with pytest.raises(Conflict, match=r"has lost 'profile/signatures.npz'"):
        added(world, parent, [task("a3")])


def test_tasks_can_only_join_a_finished_job_that_has_groups(make_world, family_spec, task):
    world = make_world()
    waiting = world.submit(family_spec())
    with pytest.raises(Conflict, match="is QUEUED; tasks can join once it is finished"):
        added(world, waiting, [task("a3")])
    world.store.set_desired(waiting, Desired.CANCEL)
    world.store.move(waiting, JobState.CANCELLED, attempt=None)
    with pytest.raises(Conflict, match="is CANCELLED: it left no trained groups"):
        added(world, waiting, [task("a3")])
    for sharing, instead in (("alone", "a job of their own"), ("all", "a job of all tasks")):
        method = {"kind": "mmap", "num_tokens": 2, "depth": 2, "sharing": sharing}
        job = world.submit(family_spec(method=method, grouping={}, baselines=[]))
        with pytest.raises(Conflict, match=f"has no groups that tasks could join: .*{instead}"):
            added(world, job, [task("a3")])
    with pytest.raises(JobNotFound):
        added(world, "job-000000000000", [task("a3")])


def test_requests_that_do_not_fit_are_refused_in_words(make_world, family_spec, task, tmp_path: Path):
    world = make_world()
    parent = finished(world, family_spec(baselines=["all"]))
    for tasks, problem in (
        ([task("a1")], "'a1' given, but job"),
        ([task("a3"), task("a3")], "given more than once"),
        ([task("a3") | {"source": {"kind": "folder", "uri": "/etc"}}], "/etc"),
        ([task("a3") | {"name": f"t{number}"} for number in range(997)], "at most 996"),
        ([], "at least 1 item"),
    ):
        with pytest.raises(SpecError, match=problem):
            added(world, parent, tasks)
    with pytest.raises(SpecError, match="'task' has no meaning here"):
        added(world, parent, [task("a3")], task=1)

    body = json.dumps({"tasks": [task("a3")]}).encode()
    more: dict[str, Any] = {"json_only": True, "idempotency_key": "once"}
    child, created = add_tasks(world.store, world.settings, parent, body, **more)
    again = add_tasks(world.store, world.settings, parent, body, **more)
    assert created and again == (world.store.get_job(child.id), False)
    assert child.spec.baselines == () and child.spec.grouping.num_groups == "auto"
    with pytest.raises(IdempotencyConflict):
        add_tasks(world.store, world.settings, parent, body.replace(b"a3", b"a4"), **more)
