"""Laws of taking more microbatches: only where groups cannot be told from noise, within bounds that are told, and
whatever happens in between."""

from typing import Any

import numpy as np
import pytest

from service.states import Desired, JobState
from service.store import Store

PROFILE = {"max_steps": 2, "snapshots": 2, "microbatches": 2, "microbatch_size": 2}
METHOD = {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "depth": 2}


class Killed(BaseException):
    """Stands for `kill -9`: nothing in the driver may catch it."""


class InterruptedStore(Store):
    """A store that does something the moment an event of a kind is told."""

    on: tuple[str, Any] | None = None

    def add_event(self, job_id: str, kind: str, message: str, **fields: Any) -> int | None:
        seq = super().add_event(job_id, kind, message, **fields)
        if self.on is not None and self.on[0] == kind:
            (_, act), self.on = self.on, None
            act(job_id)
        return seq


@pytest.fixture
def noisy(make_spec):
    """A job over pictures of noise, so that its gradients show no groups."""
    return lambda **profile: make_spec(method=METHOD, baselines=[], profile=PROFILE | profile)


def told(world, job: str, kind: str) -> list[Any]:
    return [event for event in world.store.events(job) if event.kind == kind]


def gradients(world, job: str) -> np.ndarray:
    with np.load(world.folder(job) / "profile" / "signatures.npz") as arrays:
        return arrays["gradients"]


def test_a_profile_that_is_too_noisy_takes_more_microbatches_at_its_prompts(make_world, noisy):
    world = make_world()
    few, more = world.submit(noisy(max_microbatches=0)), world.submit(noisy(max_microbatches=5))
    for job in (few, more):
        assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert gradients(world, few).shape[1] == 2 and gradients(world, more).shape[1] == 5
    (event,) = told(world, more, "measured_more")
    assert event.data["before"]["microbatches"] == 2 and event.data["after"]["microbatches"] == 5
    assert event.data["before"]["verdict"] == "too_noisy" and event.data["after"]["detection"] is not None
    plans = [world.files(job).read_json("plans/0.json")["verdict"] for job in (few, more)]
    assert [plan["measured"] for plan in plans] == [4, 10]
    assert plans[0]["detection"] == event.data["before"]["detection"]
    assert plans[1]["detection"] == event.data["after"]["detection"]
    with (
        np.load(world.folder(few) / "profile" / "signatures.npz") as a,
        np.load(world.folder(more) / "profile" / "signatures.npz") as b,
    ):
        assert all(
            np.array_equal(a[name], b[name]) for name in a.files if name not in ("gradients", "losses", "counts")
        )
    assert [path.name for path in (world.folder(more) / "profile").iterdir() if "npz" in path.name] == [
        "signatures.npz"
    ]


@pytest.mark.parametrize(
    ("profile", "expected", "reason"),
    [
        ({"max_microbatches": 0}, 2, "profile.max_microbatches=0 allows no more"),
        ({"max_microbatches": 3}, 3, "profile.max_microbatches=3 allows no more"),
        ({"microbatch_size": 16}, 2, "hold the training images of every task already"),
        ({"microbatch_size": 1}, 12, "art has 12 training images"),
    ],
)
def test_what_keeps_a_noisy_profile_from_more_is_told(make_world, noisy, profile, expected, reason):
    world = make_world()
    job = world.submit(noisy(**profile))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert gradients(world, job).shape[1] == expected
    (event,) = told(world, job, "too_noisy")
    assert event.level == "warning" and reason in event.message
    assert world.files(job).read_json("plans/0.json")["verdict"]["kind"] == "too_noisy"


@pytest.mark.parametrize("moment", ["measuring_more", "measured_more"])
def test_a_measuring_whose_attempt_is_killed_goes_on_to_the_same_signatures(make_world, noisy, moment):
    world = make_world(InterruptedStore("sqlite://"))
    undisturbed, job = world.submit(noisy()), world.submit(noisy())
    assert world.attempt(undisturbed) == JobState.SUCCEEDED, world.why(undisturbed)

    def die(job_id: str) -> None:
        raise Killed

    world.store.on = (moment, die)
    with pytest.raises(Killed):
        world.attempt(job)
    world.store.move(job, JobState.QUEUED, attempt=None)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert np.array_equal(gradients(world, job), gradients(world, undisturbed))
    assert told(world, job, "measured_more")


def test_a_job_can_be_paused_while_more_is_measured(make_world, noisy):
    world = make_world(InterruptedStore("sqlite://"))
    job = world.submit(noisy())
    world.store.on = ("measuring_more", lambda job_id: world.store.set_desired(job_id, Desired.PAUSE))
    assert world.attempt(job) == JobState.PAUSED, world.why(job)
    assert gradients(world, job).shape[1] == 2
    world.store.set_desired(job, Desired.RUN)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert gradients(world, job).shape[1] == 6
