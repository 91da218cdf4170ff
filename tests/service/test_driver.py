"""Laws of the driver: every stage once, resumable at every boundary, wishes honoured, a stale attempt silent."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from typer.testing import CliRunner

from service.cli import app
from service.driver import main
from service.settings import Settings
from service.states import Desired, JobState
from service.store import Store
from workers.launching.fake import IMAGE_BYTES, WEIGHT_BYTES, FakeLauncher
from workers.launching.footprint import USABLE
from workers.seals import read_sealed, seal
from workers.storage import make_folder
from workers.storage_mark import mark_storage

TASKS = ("art", "clipart", "photo")
STAGES = (JobState.PROFILING, JobState.GROUPING, JobState.TRAINING, JobState.PUBLISHING)
ARTIFACTS = {
    JobState.VALIDATING: "datasets.json",
    JobState.PROFILING: "profile/signatures.npz",
    JobState.GROUPING: "plans/0.json",
    JobState.TRAINING: "groups/all/result.json",
    JobState.PUBLISHING: "bundle/manifest.json",
}


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


class SpeechlessStore(Store):
    """A store in front of which the driver dies, right before it says that a group is done."""

    dies_before_done: str | None = None

    def update_group(self, job_id: str, group_id: str, *, attempt: int, **fields: Any) -> bool:
        if fields.get("state") == "done" and group_id == self.dies_before_done:
            self.dies_before_done = None
            raise Killed
        return super().update_group(job_id, group_id, attempt=attempt, **fields)


class WishingStore(Store):
    """A store whose user changes their mind as soon as a group reports progress in training."""

    wish_on_progress: Callable[[], object] | None = None

    def add_metrics(self, job_id: str, rows: Any, attempt: int) -> bool:
        rows = list(rows)
        if self.wish_on_progress and any(row["group"] == "all" and row["name"] == "loss" for row in rows):
            wish, self.wish_on_progress = self.wish_on_progress, None
            wish()
        return super().add_metrics(job_id, rows, attempt)


def test_a_job_goes_from_its_spec_to_its_bundle(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec())
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    for artifact in ARTIFACTS.values():
        assert (world.folder(job) / artifact).is_file()
    groups = world.store.groups(job)
    assert {group.state for group in groups} == {"done"}
    assert {"shared", "zero-shot", "all", "alone-art", "alone-clipart", "alone-photo", "g1"} <= {g.id for g in groups}
    rows = {(row.task, row.baseline): row.score for row in world.store.results(job)}
    assert set(rows) == {(task, baseline) for task in TASKS for baseline in (None, "zero_shot", "alone", "all")}
    assert all(value is not None and 0 <= value <= 1 for value in rows.values())
    states = [event.data["to"] for event in world.store.events(job) if event.kind == "state"]
    assert states == ["QUEUED", "STARTING", "VALIDATING", *STAGES, "SUCCEEDED"]
    assert "step 3/3" in (world.folder(job) / "logs" / "all.log").read_text()


def test_the_second_job_of_a_kind_is_told_what_to_expect(make_world, make_spec):
    world = make_world()
    first, second = (world.submit(make_spec(baselines=["all"])) for _ in range(2))
    for job in (first, second):
        assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    told = {
        job: [event.data for event in world.store.events(job) if event.kind == "expected"] for job in (first, second)
    }
    assert told[first] == []
    (expected,) = told[second]
    assert expected["seconds"] > 0
    trained = {group.id for group in world.store.groups(second) if group.kind in ("plan", "all")}
    assert set(expected["groups"]) == trained


def test_passes_are_no_larger_than_what_the_shared_prompt_showed_to_fit(make_world, make_spec):
    def passes(available: int) -> list[list[str]] | None:
        world = make_world(Store("sqlite://"))
        job = world.submit(make_spec())
        assert world.attempt(job, launcher=FakeLauncher(available=available)) == JobState.SUCCEEDED, world.why(job)
        assert {group.memory["available"] for group in world.store.groups(job) if group.memory} == {available}
        told = [event for event in world.store.events(job) if event.kind == "split_for_memory"]
        return told[0].data["passes"] if told else None

    assert passes(2**30) is None, "all in one pass"
    room = WEIGHT_BYTES + 8 * IMAGE_BYTES  # the images of two tasks; `all` has three
    split = passes(math.ceil(room / USABLE))
    assert split is not None
    assert [units for units in split if len(units) > 1] and [units for units in split if units == ["all"]]
    assert all(sum(unit.startswith("alone-") for unit in units) <= 2 for units in split)
    units = [unit for units in split for unit in units]
    assert len(units) == len(set(units)) and {"g1", "all", "zero-shot", "alone-art"} <= set(units)


@pytest.mark.parametrize("boundary", STAGES)
def test_a_killed_attempt_is_continued_at_the_stage_whose_artifact_is_missing(make_world, make_spec, boundary):
    spec = make_spec()
    world = make_world(DyingStore("sqlite://"))
    undisturbed = world.submit(spec)
    assert world.attempt(undisturbed) == JobState.SUCCEEDED, world.why(undisturbed)

    job = world.submit(spec)
    world.store.dies_before = boundary
    with pytest.raises(Killed):
        world.attempt(job)
    finished = [world.folder(job) / artifact for stage, artifact in ARTIFACTS.items() if stage != boundary]
    written = {path: path.stat().st_mtime_ns for path in finished if path.exists()}
    assert written
    assert not (world.folder(job) / ARTIFACTS[boundary]).exists()

    world.store.move(job, JobState.QUEUED, attempt=None)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert world.learned(job) == world.learned(undisturbed)


def test_a_profile_whose_attempt_died_before_it_could_say_so_is_done(make_world, make_spec):
    world = make_world(SpeechlessStore("sqlite://"))
    job = world.submit(make_spec(baselines=[]))
    world.store.dies_before_done = "shared"
    with pytest.raises(Killed):
        world.attempt(job)
    assert (world.folder(job) / ARTIFACTS[JobState.PROFILING]).is_file()
    assert [group.state for group in world.store.groups(job)] == ["running"]
    world.store.move(job, JobState.QUEUED, attempt=None)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert {group.id: group.state for group in world.store.groups(job)}["shared"] == "done"


@pytest.mark.parametrize("stage", list(ARTIFACTS))
def test_an_artifact_that_is_gone_is_made_again_and_nothing_else(make_world, make_spec, stage):
    world = make_world(DyingStore("sqlite://"))
    job = world.submit(make_spec())
    world.store.dies_before = JobState.SUCCEEDED
    with pytest.raises(Killed):
        world.attempt(job)
    learned = world.learned(job)
    missing = world.folder(job) / ARTIFACTS[stage]
    kept = {
        path: path.stat().st_mtime_ns
        for path in (world.folder(job) / artifact for artifact in ARTIFACTS.values())
        if path != missing and path.name != "manifest.json"
    }
    missing.unlink()
    world.store.move(job, JobState.QUEUED, attempt=None)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert missing.is_file()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert world.learned(job).keys() == learned.keys()
    for group, tensors in world.learned(job).items():
        for name, content in tensors.items():  # up to rounding: the group's neighbours in its pass are others now
            np.testing.assert_allclose(
                np.frombuffer(content, np.float32), np.frombuffer(learned[group][name], np.float32), atol=1e-5
            )


def test_cancel_in_the_middle_of_training_leaves_no_manifest(make_world, make_spec):
    world = make_world(WishingStore("sqlite://"))
    job = world.submit(make_spec(training={"max_steps": 100_000, "batch_size": 4, "checkpoint_every": 10}))
    world.store.wish_on_progress = lambda: world.store.set_desired(job, Desired.CANCEL)
    assert world.attempt(job) == JobState.CANCELLED, world.why(job)
    assert not (world.folder(job) / "bundle" / "manifest.json").exists()
    assert {group.state for group in world.store.groups(job) if group.kind == "all"} == {"stopped"}


def test_pause_and_resume_end_with_the_tensors_of_an_uninterrupted_run(make_world, make_spec):
    training = {"max_steps": 60, "batch_size": 4, "warmup_epochs": 0, "checkpoint_every": 20}
    spec = make_spec(training=training, baselines=["zero_shot", "all"])
    world = make_world(WishingStore("sqlite://"))
    undisturbed = world.submit(spec)
    assert world.attempt(undisturbed) == JobState.SUCCEEDED, world.why(undisturbed)
    job = world.submit(spec)
    world.store.wish_on_progress = lambda: world.store.set_desired(job, Desired.PAUSE)
    assert world.attempt(job) == JobState.PAUSED, world.why(job)
    assert not (world.folder(job) / "groups" / "all" / "result.json").exists()
    world.store.set_desired(job, Desired.RUN)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert world.learned(job) == world.learned(undisturbed)


def test_a_draining_service_gets_its_job_back_in_the_queue(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec())
    world.store.set_draining(True)
    assert world.attempt(job) == JobState.QUEUED, world.why(job)
    world.store.set_draining(False)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)


def test_a_stale_attempt_writes_nothing(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec())
    stale = world.store.start_attempt(job)
    world.store.move(job, JobState.QUEUED, attempt=None)
    world.store.start_attempt(job)
    before = (world.store.events(job), world.store.get_job(job))
    assert world.attempt(job, stale) == JobState.STARTING
    assert (world.store.events(job), world.store.get_job(job)) == before
    assert not [path for path in world.folder(job).rglob("*") if path.is_file()]


def test_an_attempt_that_is_overtaken_while_it_trains_ends_without_a_result(make_world, make_spec):
    world = make_world(WishingStore("sqlite://"))
    job = world.submit(make_spec(training={"max_steps": 100_000, "batch_size": 4}))

    def overtake() -> None:
        world.store.move(job, JobState.QUEUED, attempt=None)
        world.store.start_attempt(job)

    world.store.wish_on_progress = overtake
    assert world.attempt(job) == JobState.STARTING, world.why(job)
    assert world.store.events(job)[-1].data["to"] == "STARTING"
    assert not (world.folder(job) / "bundle").exists()


def test_one_failed_group_does_not_sink_its_siblings(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(grouping={"num_groups": 2}))
    (world.folder(job) / "groups").mkdir(parents=True)
    (world.folder(job) / "groups" / "g1").write_text("a file where the group's folder should be")
    assert world.attempt(job) == JobState.PARTIALLY_SUCCEEDED, world.why(job)
    states = {group.id: group.state for group in world.store.groups(job)}
    assert states.pop("g1") == "failed"
    assert set(states.values()) == {"done"}
    assert "g1" in (world.store.get_job(job).reason or "")
    assert (world.folder(job) / "bundle" / "manifest.json").is_file()


def test_when_every_group_fails_the_job_fails_and_says_why(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(method={"kind": "mmap", "num_tokens": 2, "depth": 2, "sharing": "all"}, baselines=[]))
    (world.folder(job) / "groups").mkdir(parents=True)
    (world.folder(job) / "groups" / "g1").write_text("a file where the group's folder should be")
    assert world.attempt(job) == JobState.FAILED, world.why(job)
    assert "No group could be trained" in (world.store.get_job(job).reason or "")
    assert not (world.folder(job) / "bundle" / "manifest.json").exists()


def test_missing_data_fail_the_job_with_the_place_that_was_given(make_world, make_spec, task_folders):
    world = make_world()
    spec = make_spec()
    lost = spec.tasks[0].model_dump() | {"source": {"kind": "folder", "uri": str(task_folders("art") / "nowhere")}}
    job = world.submit(make_spec(tasks=[lost]))
    assert world.attempt(job) == JobState.FAILED, world.why(job)
    assert "nowhere" in (world.store.get_job(job).reason or "")


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ({"kind": "mmap", "depth": 99}, "depth"),
        ({"kind": "vpt", "depth": 99}, "depth"),
        ({"kind": "mmap", "num_tokens": 2, "source_shape": [2, 7]}, "source_shape"),
        ({"kind": "adapter", "reduction": 7}, "reduction"),
        ({"kind": "coop", "num_context_tokens": 64}, "Shorten class names"),
    ],
)
def test_a_method_that_does_not_fit_the_backbone_is_refused_before_any_training(make_world, make_spec, method, reason):
    world = make_world()
    job = world.submit(make_spec(method=method))
    assert world.attempt(job) == JobState.FAILED
    assert reason in world.why(job)
    states = [event.data["to"] for event in world.store.events(job) if event.kind == "state"]
    assert states == ["QUEUED", "STARTING", "VALIDATING", "FAILED"]


@pytest.fixture
def unequal_tasks(task_folders) -> list[dict[str, Any]]:
    folders = {"art": task_folders("art"), "pets": task_folders("pets", {"cat": 8, "dog": 8})}
    return [
        {"name": name, "source": {"kind": "folder", "uri": str(folder)}, "split": {"shots": 4}}
        for name, folder in folders.items()
    ]


def test_a_method_over_unequal_classes_goes_without_the_baseline_all(make_world, make_spec, unequal_tasks):
    world = make_world()
    job = world.submit(make_spec(tasks=unequal_tasks, method={"kind": "tip_adapter"}))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert {row.baseline for row in world.store.results(job)} == {None, "zero_shot", "alone"}
    (told,) = [event for event in world.store.events(job) if event.kind == "baseline_left_out"]
    assert told.level == "warning"

    pooled = world.submit(make_spec(tasks=unequal_tasks, method={"kind": "tip_adapter", "sharing": "all"}))
    assert world.attempt(pooled) == JobState.FAILED
    assert "has other classes than" in world.why(pooled)
    assert not (world.folder(pooled) / "datasets.json").exists()


@pytest.mark.parametrize(("sharing", "num_groups"), [("alone", 3), ("all", 1)])
def test_trivial_sharings_skip_the_profile_and_still_have_a_plan(make_world, make_spec, sharing, num_groups):
    world = make_world()
    method = {"kind": "mmap", "num_tokens": 2, "depth": 2, "sharing": sharing}
    job = world.submit(make_spec(method=method, baselines=["zero_shot", sharing]))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert not (world.folder(job) / "profile").exists()
    plan = json.loads((world.folder(job) / "plans" / "0.json").read_text())
    assert len(plan["groups"]) == num_groups
    mine = {row.task: (row.group, row.score) for row in world.store.results(job) if row.baseline is None}
    same = {row.task: (row.group, row.score) for row in world.store.results(job) if row.baseline == sharing}
    assert mine == same


def test_a_plan_that_wants_approval_waits_for_it(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(grouping={"approve": True}))
    assert world.attempt(job) == JobState.AWAITING_APPROVAL, world.why(job)
    assert not (world.folder(job) / "groups").exists()
    world.store.approve_plan(job, 0)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)


def test_a_task_too_dear_for_any_group_fails_the_job_before_anything_is_measured(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(grouping={"max_group_cost": 3}))
    assert world.attempt(job) == JobState.FAILED
    told = "max_group_cost=3, but a step of 'art', 'clipart', 'photo' alone takes up to 4 training images"
    assert told in world.why(job) and "Allow at least 4" in world.why(job)
    assert not (world.folder(job) / "datasets.json").exists()
    assert not (world.folder(job) / "profile").exists()


def test_groups_over_several_devices_are_refused_where_there_is_one(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(resources={"devices_per_group": 2}))
    assert world.attempt(job) == JobState.FAILED, world.why(job)
    assert "devices_per_group=2" in (world.store.get_job(job).reason or "")
    assert not (world.folder(job) / ARTIFACTS[JobState.VALIDATING]).exists()


@pytest.mark.ray
def test_a_device_that_the_cluster_lacks_fails_the_job_in_its_first_attempt(
    tmp_path: Path, make_spec, monkeypatch: pytest.MonkeyPatch
):
    settings = Settings(home=tmp_path)
    monkeypatch.setenv("COHORT_SETTINGS_FILE", str(settings.write_running()))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    make_folder(settings.storage_place)
    mark_storage(settings.storage_place)
    store = Store(settings.database_url)
    store.create_schema()
    job = store.create_job(make_spec(resources={"device": "cuda"}))[0].id
    attempt = store.start_attempt(job)
    ray.init(address="local", num_cpus=1, num_gpus=0, include_dashboard=False, log_to_driver=False)
    try:
        assert main(job, attempt) == 0
    finally:
        ray.shutdown()
    ended = store.get_job(job)
    assert (ended.state, ended.attempt) == (JobState.FAILED, 1)
    assert (ended.reason or "").startswith("device=cuda: the cluster has no GPU.")


def test_a_bundle_predicts_with_the_backbone_that_is_named_where_its_own_is_gone(
    make_world, make_spec, tiny_clip_dir: Path, task_folders, tmp_path: Path
):
    gone, here = tmp_path.parent / f"{tmp_path.name}-gone", tmp_path / "here"
    for copy in (gone, here):
        shutil.copytree(tiny_clip_dir, copy)
    world = make_world()
    job = world.submit(make_spec(backbone={"model": f"local-dir:{gone}"}, method={"kind": "zero_shot"}, baselines=[]))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    shutil.rmtree(gone)
    bundle = world.folder(job) / "bundle"
    image = next(path for path in sorted(task_folders("art").rglob("*")) if path.is_file())

    def predict(*options: str) -> Any:
        return CliRunner().invoke(app, ["predict", str(bundle), "art", str(image), "--json", *options])

    without = predict()
    assert without.exit_code == 1
    assert str(gone) in without.output
    answer = predict("--backbone", f"local-dir:{here}", "--device", "cpu")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.output)[0]["image"] == str(image)
    unknown = predict("--backbone", f"local-dir:{here}", "--device", "tepid")
    assert unknown.exit_code == 1
    assert "tepid" in unknown.output
    (bundle / "manifest.json").write_text("{")
    broken = predict()
    assert broken.exit_code == 1
    assert "its manifest is not JSON" in broken.output


def test_a_loss_that_is_no_number_is_null_in_what_is_published(make_world, make_spec):
    world = make_world(DyingStore("sqlite://"))
    job = world.submit(make_spec(method={"kind": "zero_shot"}, baselines=[]))
    world.store.dies_before = JobState.PUBLISHING
    with pytest.raises(Killed):
        world.attempt(job)
    (result,) = world.folder(job).glob("groups/*/result.json")
    found = read_sealed(result)
    found["results"]["art"]["loss"] = float("inf")
    result.write_bytes(seal(json.dumps(found)))
    world.store.move(job, JobState.QUEUED, attempt=None)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    rows = {row["task"]: row["loss"] for row in world.files(job).read_json("bundle/metrics.json")}
    assert rows["art"] is None
    assert rows["photo"] > 0
