"""Laws of failing: who is tried again, how often, with what; that poison fails alone, and that a wish ends any wait."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.artifacts import JobFiles
from service.driver import run_job
from service.records import Group
from service.settings import Settings
from service.spec import parse_spec
from service.states import Desired, JobState
from service.store import Store
from workers import faults
from workers.failures import FailureClass
from workers.launching.board import Outcome
from workers.launching.fake import FakeLauncher, FakeRunning
from workers.launching.work import PassWork, ProfileWork, Work

NAMES = ("squiggles", "plain", "noisy", "shapes")
SPEC: dict[str, Any] = {
    "name": "failing",
    "backbone": {"model": "demo"},
    "tasks": [{"name": name, "source": {"kind": "demo", "task": name}} for name in NAMES],
    "method": {"kind": "mmap", "sharing": "alone"},
    "training": {"max_steps": 6, "batch_size": 4, "checkpoint_every": 2},
    "baselines": [],
}
Script = Callable[[Work], Outcome | None]


def failed(fault: FailureClass, error: str = "it broke", **fields: Any) -> Outcome:
    return Outcome("failed", error=error, fault=fault, **fields)


class Falling(FakeRunning):
    """A work that ends as its script says, before its first step."""

    def __init__(self, work: Work, outcome: Outcome) -> None:
        super().__init__(work)
        self.outcome = outcome


class ScriptedLauncher(FakeLauncher):
    """Works end as the script says; those it has no word for do as ever."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script
        self.works: list[Work] = []

    def start(self, work: Work) -> FakeRunning:
        self.works.append(work)
        outcome = self.script(work)
        return super().start(work) if outcome is None else Falling(work, outcome)

    @property
    def passes(self) -> list[tuple[str, ...]]:
        return [tuple(unit.id for unit in work.groups) for work in self.works if isinstance(work, PassWork)]


class Job:
    """One job under a scripted launcher, in memory."""

    def __init__(self, home: Path, **changes: Any) -> None:
        self.settings = Settings(home=home, poll_seconds=0.001, backoff_seconds=0.01, stall_seconds=2)
        self.store = Store("sqlite://")
        self.store.create_schema()
        self.files = home / "storage"
        self.id = self.store.create_job(parse_spec(SPEC | changes))[0].id

    def run(self, script: Script) -> ScriptedLauncher:
        launcher = ScriptedLauncher(script)
        self.run_on(launcher)
        return launcher

    def run_on(self, launcher: ScriptedLauncher) -> None:
        run_job(
            self.id,
            self.store.start_attempt(self.id),
            store=self.store,
            files=JobFiles(self.settings.storage, self.id),
            launcher=launcher,
            settings=self.settings,
        )

    @property
    def state(self) -> JobState:
        return self.store.get_job(self.id).state

    @property
    def groups(self) -> dict[str, Group]:
        return {group.id: group for group in self.store.groups(self.id)}

    def events(self, kind: str) -> list[Any]:
        return [event for event in self.store.events(self.id) if event.kind == kind]


def poisons(group: str, fault: FailureClass = FailureClass.INFRASTRUCTURE) -> Script:
    """Whatever trains the group fails."""

    def script(work: Work) -> Outcome | None:
        units = {unit.id for unit in work.groups} if isinstance(work, PassWork) else set()
        return failed(fault) if group in units else None

    return script


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_poison_fails_alone_after_three_tries_and_its_siblings_finish(job):
    launcher = job.run(poisons("g2"))
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert {id: group.state for id, group in job.groups.items()} == {
        "g1": "done",
        "g2": "failed",
        "g3": "done",
        "g4": "done",
    }
    assert launcher.passes.count(("g2",)) == 3
    sick = job.groups["g2"]
    assert sick.failure is FailureClass.INFRASTRUCTURE
    assert "3 times without a new checkpoint" in (sick.reason or "")
    assert [event.data["failure"] for event in job.events("group_failed")] == ["infrastructure"]
    assert all(job.groups[id].failure is None for id in ("g1", "g3", "g4"))


def test_a_pass_whose_process_vanished_is_tried_again_as_it_was_before_it_is_split(job):
    died = []

    def once(work: Work) -> Outcome | None:
        if isinstance(work, PassWork) and not died:
            died.append(work)
            return failed(FailureClass.INFRASTRUCTURE, "the process that ran it is gone")
        return None

    launcher = job.run(once)
    assert job.state is JobState.SUCCEEDED
    assert launcher.passes == [("g1", "g2", "g3", "g4")] * 2
    (told,) = job.events("group_retried")
    assert told.data["seconds"] < 0.01 and told.data["failure"] == "infrastructure"
    assert "tried again" in told.message


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        (FailureClass.USER, 1),
        (FailureClass.DATA, 1),
        (FailureClass.STORAGE, 1),
        (FailureClass.OUT_OF_MEMORY, 2),
        (FailureClass.BUG, 2),
        (FailureClass.INFRASTRUCTURE, 3),
    ],
)
def test_a_job_whose_only_group_fails_is_of_the_class_of_its_group(tmp_path, fault, tries):
    job = Job(tmp_path, method={"kind": "mmap", "sharing": "all"})
    launcher = job.run(poisons("g1", fault))
    ended = job.store.get_job(job.id)
    assert (ended.state, ended.failure) == (JobState.FAILED, fault)
    assert len(launcher.passes) == tries
    assert (job.groups["g1"].failures, job.groups["g1"].failure) == (tries, fault)


def test_a_full_disk_is_not_tried_again_by_halves(job):
    full = failed(FailureClass.STORAGE, "[Errno 28] No space left on device", hits_all=True)
    launcher = job.run(lambda work: full if isinstance(work, PassWork) else None)
    assert launcher.passes == [("g1", "g2", "g3", "g4")]
    assert {group.failure for group in job.groups.values()} == {FailureClass.STORAGE}
    assert job.store.get_job(job.id).failure is FailureClass.STORAGE


def test_preemptions_are_tried_again_without_end_and_without_a_split(job):
    taken = []

    def script(work: Work) -> Outcome | None:
        if isinstance(work, PassWork) and len(taken) < 20:
            taken.append(work)
            return failed(FailureClass.PREEMPTION, "its machine is taken away")
        return None

    launcher = job.run(script)
    assert job.state is JobState.SUCCEEDED
    assert launcher.passes == [("g1", "g2", "g3", "g4")] * 21


def test_out_of_memory_halves_the_batches_of_the_group_alone_and_says_so(tmp_path):
    job = Job(tmp_path)

    def script(work: Work) -> Outcome | None:
        crowded = isinstance(work, PassWork) and "g3" in {unit.id for unit in work.groups} and work.microbatches == 1
        return failed(FailureClass.OUT_OF_MEMORY, "CUDA out of memory") if crowded else None

    launcher = job.run(script)
    assert job.state is JobState.SUCCEEDED
    assert {id: group.microbatches for id, group in job.groups.items()} == {"g1": 1, "g2": 1, "g3": 2, "g4": 1}
    (told,) = job.events("group_retried")
    assert "every batch in 2 parts" in told.message and told.data["microbatches"] == 2
    assert [work.microbatches for work in launcher.works if work.groups[0].id == "g3"] == [1, 1, 2]


def test_zero_shot_that_runs_out_of_memory_is_tried_again_without_talk_of_batches(tmp_path):
    job = Job(tmp_path, baselines=["zero_shot"])
    fell_alone = []

    def script(work: Work) -> Outcome | None:
        ids = [unit.id for unit in work.groups]
        if not isinstance(work, PassWork) or "zero-shot" not in ids or fell_alone:
            return None
        fell_alone.extend(ids if len(ids) == 1 else ())
        return failed(FailureClass.OUT_OF_MEMORY, "CUDA out of memory")

    job.run(script)
    (told,) = job.events("group_retried")
    assert (job.state, job.groups["zero-shot"].microbatches) == (JobState.SUCCEEDED, 1)
    assert "parts" not in told.message and "checkpoint" not in told.message


@pytest.mark.parametrize("begun", [False, True], ids=["in the middle", "before a later attempt"])
def test_ranks_whose_machine_is_gone_wait_for_it(tmp_path, begun):
    job = Job(tmp_path, method={"kind": "mmap", "sharing": "all"}, resources={"devices_per_group": 2})

    class Shrinking(ScriptedLauncher):
        looks = 0

        def capacity(self, devices: int = 1) -> int:
            self.looks += devices > 1
            if devices > 1 and (begun or self.looks > 1) and self.looks < 5:
                raise ValueError("devices_per_group=2: the cluster has 1 GPU.")
            return 1

    attempt = job.store.start_attempt(job.id)
    if begun:
        job.store.move(job.id, JobState.VALIDATING, attempt=attempt)
        job.store.move(job.id, JobState.QUEUED, attempt=attempt)
        attempt = job.store.start_attempt(job.id)
    launcher, files = Shrinking(lambda work: None), JobFiles(job.settings.storage, job.id)
    run_job(job.id, attempt, store=job.store, files=files, launcher=launcher, settings=job.settings)
    assert job.state is JobState.SUCCEEDED, job.store.get_job(job.id).reason
    assert [event.level for event in job.events("waits_for_devices")] == ["warning"]


def test_an_estimate_is_tried_again_where_its_job_would_be(tmp_path):
    job = Job(tmp_path)
    job.id = job.store.create_job(parse_spec(SPEC), purpose="estimate")[0].id
    launcher = job.run(lambda work: failed(FailureClass.INFRASTRUCTURE, "its process is gone"))
    ended = job.store.get_job(job.id)
    assert (ended.state, ended.failure) == (JobState.FAILED, FailureClass.INFRASTRUCTURE)
    assert len(launcher.works) == 3


def test_the_smaller_batch_stays_through_the_attempts_of_a_job(tmp_path):
    job = Job(tmp_path, method={"kind": "mmap", "sharing": "all"})

    def script(work: Work) -> Outcome | None:
        if isinstance(work, PassWork) and work.microbatches == 1:
            return failed(FailureClass.OUT_OF_MEMORY)
        if isinstance(work, PassWork):
            job.store.set_desired(job.id, Desired.PAUSE)
        return None

    job.run(script)
    assert job.state is JobState.PAUSED
    job.store.set_desired(job.id, Desired.RUN)
    launcher = job.run(lambda work: None)
    assert job.state is JobState.SUCCEEDED
    assert [work.microbatches for work in launcher.works] == [2]


def test_tries_are_counted_over_the_attempts_of_a_job(tmp_path):
    job = Job(tmp_path, method={"kind": "mmap", "sharing": "all"})

    def script(work: Work) -> Outcome | None:
        if not isinstance(work, PassWork):
            return None
        if job.groups["g1"].failures == 1:
            job.store.set_desired(job.id, Desired.PAUSE)
        return failed(FailureClass.INFRASTRUCTURE)

    job.run(script)
    assert (job.state, job.groups["g1"].failures) == (JobState.PAUSED, 2)
    job.store.set_desired(job.id, Desired.RUN)
    launcher = job.run(poisons("g1"))
    assert len(launcher.passes) == 1
    assert (job.state, job.groups["g1"].failures) == (JobState.FAILED, 3)


def test_the_profile_is_tried_again_as_a_group_is(tmp_path):
    job = Job(tmp_path, method={"kind": "mmap"}, profile={"max_steps": 2, "snapshots": 2, "max_microbatches": 0})
    kinds = iter([FailureClass.INFRASTRUCTURE, FailureClass.OUT_OF_MEMORY])

    def script(work: Work) -> Outcome | None:
        fault = next(kinds, None) if isinstance(work, ProfileWork) else None
        return None if fault is None else failed(fault)

    launcher = job.run(script)
    assert job.state is JobState.SUCCEEDED, job.store.get_job(job.id).reason
    assert [work.microbatches for work in launcher.works if isinstance(work, ProfileWork)] == [1, 1, 2]
    assert (job.groups["shared"].state, job.groups["shared"].failures) == ("done", 2)


@pytest.mark.parametrize(("wish", "state"), [(Desired.CANCEL, JobState.CANCELLED), (Desired.PAUSE, JobState.PAUSED)])
def test_a_wish_is_heeded_while_a_retry_waits(tmp_path, wish, state):
    job = Job(tmp_path, method={"kind": "mmap", "sharing": "all"})
    job.settings = job.settings.model_copy(update={"backoff_seconds": 1e6})

    def script(work: Work) -> Outcome | None:
        if isinstance(work, PassWork):
            job.store.set_desired(job.id, wish)
            return failed(FailureClass.INFRASTRUCTURE)
        return None

    began = time.monotonic()
    job.run(script)
    assert job.state is state and time.monotonic() - began < 60


def test_works_that_can_run_do_not_wait_for_one_that_must(tmp_path):
    """The first pass falls and waits long; the units of the other training setting are done meanwhile."""
    job = Job(tmp_path)
    job.settings = job.settings.model_copy(update={"backoff_seconds": 1e6})
    seen: list[tuple[str, ...]] = []

    def script(work: Work) -> Outcome | None:
        if not isinstance(work, PassWork):
            return None
        seen.append(tuple(unit.id for unit in work.groups))
        if "g1" in seen[-1]:
            return failed(FailureClass.BUG)
        return None

    class Watching(Store):
        def add_event(self, job_id: str, kind: str, message: str, **fields: Any) -> int | None:
            if kind == "group_done" and message.startswith("g4"):
                self.set_desired(job_id, Desired.CANCEL)
            return super().add_event(job_id, kind, message, **fields)

    store = Watching("sqlite://")
    store.create_schema()
    job.store, job.id = store, store.create_job(parse_spec(SPEC))[0].id
    job.run(script)
    assert job.state is JobState.CANCELLED
    assert {id for id, group in job.groups.items() if group.state == "done"} >= {"g3", "g4"}
    assert job.groups["g1"].state == "waiting"


def test_a_work_without_a_sign_of_life_is_ended_and_tried_again(tmp_path):
    class Silent(FakeRunning):
        def advance(self, steps: int) -> None:
            """It hangs."""

        @property
        def silent_seconds(self) -> float:
            return 0.0 if self.outcome else 3.0

    class HangingLauncher(ScriptedLauncher):
        def start(self, work: Work) -> FakeRunning:
            if isinstance(work, PassWork) and not self.passes:
                self.works.append(work)
                return Silent(work)
            return super().start(work)

    job = Job(tmp_path, method={"kind": "mmap", "sharing": "all"})
    job.run_on(HangingLauncher(lambda work: None))
    assert job.state is JobState.SUCCEEDED
    (told,) = job.events("group_retried")
    assert "gave no sign of life for 3 s" in told.message and told.data["failure"] == "infrastructure"


def test_a_job_that_waits_for_a_device_pauses_at_once(tmp_path):
    """With the usual patience for checkpoints, of which it has none to write."""

    class Unseated(FakeRunning):
        @property
        def has_begun(self) -> bool:
            return False

        def advance(self, steps: int) -> None:
            """Its process never starts."""

    class FullLauncher(ScriptedLauncher):
        def start(self, work: Work) -> FakeRunning:
            if not isinstance(work, PassWork):
                return super().start(work)
            job.store.set_desired(job.id, Desired.PAUSE)
            self._started.append(running := Unseated(work))
            return running

    job = Job(tmp_path, method={"kind": "mmap", "sharing": "all"})
    job.run_on(FullLauncher(lambda work: None))
    assert job.state is JobState.PAUSED
    assert {group.state for group in job.groups.values()} == {"stopped"}
    assert not job.events("checkpoint_late")


def test_a_shared_prompt_that_is_trained_keeps_its_steps_through_a_pause(tmp_path):
    def paused(work: Work) -> None:
        if isinstance(work, PassWork):
            job.store.set_desired(job.id, Desired.PAUSE)

    job = Job(tmp_path, method={"kind": "mmap"})
    job.run(paused)
    assert job.state is JobState.PAUSED
    trained = job.groups["shared"]
    assert trained.state == "done" and trained.step == trained.num_steps > 0
    job.store.set_desired(job.id, Desired.RUN)
    job.run(lambda work: None)
    assert job.state is JobState.SUCCEEDED
    assert job.groups["shared"].num_steps == trained.num_steps


def test_what_passes_by_itself_ends_the_attempt_and_not_the_job(job):
    def script(work: Work) -> Outcome | None:
        raise ConnectionResetError("the cluster is away")

    with pytest.raises(ConnectionResetError):
        job.run(script)
    assert job.state is JobState.VALIDATING


def test_late_words_of_an_attempt_that_is_over_change_nothing(tmp_path):
    """Two hundred of them, of every kind, while the next attempt runs."""
    job = Job(tmp_path)

    def paused(work: Work) -> None:
        job.store.set_desired(job.id, Desired.PAUSE)

    job.run(paused)
    stale = job.store.get_job(job.id).attempt
    job.store.set_desired(job.id, Desired.RUN)
    attempt = job.store.start_attempt(job.id)
    job.store.put_groups(job.id, [{"id": "g1", "kind": "plan", "tasks": ["plain"]}], attempt)
    before = (job.store.get_job(job.id), job.groups, job.store.events(job.id), job.store.metrics(job.id))
    for step in range(50):
        point = {"group": "g1", "task": None, "step": step, "name": "loss", "value": 0.0}
        assert not job.store.add_metrics(job.id, [point], stale)
        assert not job.store.update_group(job.id, "g1", attempt=stale, step=step, state="failed", microbatches=2)
        assert job.store.add_event(job.id, "late", "a late word", attempt=stale) is None
        assert not job.store.move(job.id, JobState.FAILED, attempt=stale, failure=FailureClass.BUG)
    assert (job.store.get_job(job.id), job.groups, job.store.events(job.id), job.store.metrics(job.id)) == before


def test_a_failed_jobs_class_is_forgotten_when_it_starts_again(job):
    attempt = job.store.start_attempt(job.id)
    job.store.move(job.id, JobState.QUEUED, attempt=attempt, failure=FailureClass.INFRASTRUCTURE)
    assert job.store.get_job(job.id).failure is FailureClass.INFRASTRUCTURE
    job.store.start_attempt(job.id)
    assert job.store.get_job(job.id).failure is None


@pytest.mark.parametrize(
    ("plan", "class_", "exact"),
    [
        ("train.step:crash@5", FailureClass.INFRASTRUCTURE, True),  # between two checkpoints
        ("write.checkpoint:crash@3", FailureClass.INFRASTRUCTURE, True),  # in the middle of a checkpoint
        ("write.commit:crash@3", FailureClass.INFRASTRUCTURE, True),  # its tensors are there, and nothing vouches
        ("train.step:crash@3,train.step:crash@7", FailureClass.INFRASTRUCTURE, True),
        ("train.step:memory@5", FailureClass.OUT_OF_MEMORY, False),
        ("train.step:hang@5", FailureClass.INFRASTRUCTURE, True),
    ],
)
def test_a_group_that_was_killed_ends_with_the_tensors_of_an_undisturbed_one(
    make_world, make_spec, plan, class_, exact, request
):
    request.addfinalizer(lambda: faults.arm(""))
    training = {"max_steps": 9, "batch_size": 4, "warmup_epochs": 0, "checkpoint_every": 2}
    spec = make_spec(method={"kind": "mmap", "num_tokens": 2, "depth": 2, "sharing": "all"}, training=training)
    spec = spec.model_copy(update={"baselines": ()})
    world = make_world()
    world.settings = world.settings.model_copy(update={"stall_seconds": 3})
    undisturbed, job = world.submit(spec), world.submit(spec)
    assert world.attempt(undisturbed) == JobState.SUCCEEDED, world.why(undisturbed)
    faults.arm(plan)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    (group,) = world.store.groups(job)
    retried = [event.data["failure"] for event in world.store.events(job) if event.kind == "group_retried"]
    assert retried == [class_] * plan.count(":") and (group.failures, group.failure) == (len(retried), None)
    learned, expected = world.learned(job), world.learned(undisturbed)
    if exact:
        assert learned == expected
    for group_id, tensors in expected.items():
        for name, content in tensors.items():
            mine, theirs = (np.frombuffer(each, np.float32) for each in (learned[group_id][name], content))
            np.testing.assert_allclose(mine, theirs, atol=1e-4)
