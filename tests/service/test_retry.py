"""Laws of a retry: it takes over all that the job before it has finished, and trains what is missing."""

import json
from typing import Any

import numpy as np
import pytest

from service.artifacts import TAKEN_OVER
from service.children import retry
from service.keeper import Keeper
from service.states import Desired, JobState
from service.store import Store
from workers import faults
from workers.bundle import load_bundle

pytestmark = pytest.mark.slow

PARTS = ("datasets.json", "profile/signatures.npz", "plans/0.json")


class WishingStore(Store):
    """A store in front of which the user changes his mind at the first report of the unit `at`."""

    at: str | None = None

    def update_group(self, job_id: str, group_id: str, *, attempt: int, **fields: Any) -> bool:
        written = super().update_group(job_id, group_id, attempt=attempt, **fields)
        if self.at == group_id and fields.get("step", 0) > 0:
            self.at = None
            self.set_desired(job_id, Desired.CANCEL)
        return written


def partly(world, spec) -> str:
    """A job whose group g1 failed."""
    job = world.submit(spec)
    (world.folder(job) / "groups").mkdir(parents=True)
    (world.folder(job) / "groups" / "g1").write_text("a file where the group's folder should be")
    assert world.attempt(job) == JobState.PARTIALLY_SUCCEEDED, world.why(job)
    (world.folder(job) / "groups" / "g1").unlink()
    return job


def retried(world, job: str) -> str:
    child, created = retry(world.store, world.settings, job, idempotency_key=None)
    assert created and child.retry_of == job
    return child.id


def told(world, job: str, kind: str) -> list[Any]:
    return [event for event in world.store.events(job) if event.kind == kind]


def test_only_the_group_that_failed_is_trained(make_world, make_spec):
    world = make_world()
    spec = make_spec(grouping={"num_groups": 2})
    whole = world.submit(spec)
    assert world.attempt(whole) == JobState.SUCCEEDED, world.why(whole)
    job = partly(world, spec)
    child = retried(world, job)
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
    for part in PARTS:
        assert (world.folder(child) / part).read_bytes() == (world.folder(job) / part).read_bytes()
    (event,) = told(world, child, "taken_over")
    others = {group.id for group in world.store.groups(job)} - {"g1", "shared"}
    assert set(event.data["groups"]) == others
    assert {group.id for group in world.store.groups(child) if group.state == "done"} == others | {"g1", "shared"}
    for group, tensors in world.learned(job).items():
        assert world.learned(child)[group] == tensors
    steps = {m.group for m in world.store.metrics(child, name="loss", limit=10_000)}
    assert steps == {m.group for m in world.store.metrics(whole, name="loss", limit=10_000)}
    for name, content in world.learned(whole)["g1"].items():  # up to rounding: it had other neighbours in its pass
        own = np.frombuffer(world.learned(child)["g1"][name], np.float32)
        np.testing.assert_allclose(own, np.frombuffer(content, np.float32), atol=1e-5)
    load_bundle(world.folder(child) / "bundle").verify()
    assert world.store.get_job(job).state == JobState.PARTIALLY_SUCCEEDED


def test_a_cancelled_job_goes_on_from_its_checkpoints_to_the_same_tensors(make_world, make_spec):
    training = {"max_steps": 60, "batch_size": 4, "warmup_epochs": 0, "checkpoint_every": 20}
    spec = make_spec(training=training, baselines=["all"], method={"kind": "mmap", "depth": 2, "sharing": "all"})
    world = make_world(WishingStore("sqlite://"))
    undisturbed = world.submit(spec)
    assert world.attempt(undisturbed) == JobState.SUCCEEDED, world.why(undisturbed)
    job = world.submit(spec)
    world.store.at = "g1"
    assert world.attempt(job) == JobState.CANCELLED, world.why(job)
    reached = max(json.loads(path.read_text())["step"] for path in world.folder(job).glob("groups/g1/step-*.json"))
    assert 0 < reached < 60
    child = retried(world, job)
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
    assert world.learned(child) == world.learned(undisturbed)


def test_a_retry_of_a_job_that_never_began_is_that_job(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(baselines=[]))
    world.store.set_desired(job, Desired.CANCEL)
    world.store.move(job, JobState.CANCELLED, attempt=None)
    child = retried(world, job)
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
    assert "nothing, as it had finished nothing" in told(world, child, "taken_over")[0].message


def test_a_retry_whose_driver_dies_while_it_takes_over_misses_nothing(make_world, make_spec):
    world = make_world()
    job = partly(world, make_spec(grouping={"num_groups": 2}, baselines=["zero_shot"]))
    for at in (1, 9):
        child = retried(world, job)
        faults.arm(f"retry.copies:crash@{at}")
        try:
            with pytest.raises(faults.Crash):
                world.attempt(child)
        finally:
            faults.arm("")
        assert not (world.folder(child) / TAKEN_OVER).exists()
        world.store.move(child, JobState.QUEUED, attempt=None)
        assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
        assert len(told(world, child, "taken_over")) == 1
        assert [plan.approved for plan in world.store.plans(child)] == [True]


def test_a_retry_of_a_retry_that_never_began_goes_on_from_the_job_before_both(make_world, make_spec):
    world = make_world()
    job = partly(world, make_spec(grouping={"num_groups": 2}, baselines=["zero_shot"]))
    child = retried(world, job)
    world.store.set_desired(child, Desired.CANCEL)
    world.store.move(child, JobState.CANCELLED, attempt=None)
    again, _ = retry(world.store, world.settings, child, idempotency_key=None)
    assert again.retry_of == job
    assert world.attempt(again.id) == JobState.SUCCEEDED, world.why(again.id)
    (event,) = told(world, again.id, "taken_over")
    assert "zero-shot" in event.data["groups"], event


def test_a_retry_needs_the_job_before_it_only_until_it_has_ended(make_world, make_spec):
    world = make_world()
    keeper = Keeper(world.store, world.settings.model_copy(update={"retention_days": 1}))
    job = partly(world, make_spec(grouping={"num_groups": 2}, baselines=["zero_shot"]))
    child = retried(world, job)
    world.store.delete(job)
    later = world.store.now() + 3 * 86_400
    assert keeper.purge(later) == []
    assert world.folder(job).exists()
    assert world.attempt(child) == JobState.SUCCEEDED, world.why(child)
    assert keeper.purge(later) == [job]
    assert not world.folder(job).exists()
    load_bundle(world.folder(child) / "bundle").verify()
