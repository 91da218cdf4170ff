"""Laws of what is learned from finished groups: only from groups like ours, the latest counting most."""

from typing import Any

from service.costs import learned_costs
from service.spec import JobSpec, parse_spec
from service.states import JobState
from service.store import Store

JOB = {"name": "two", "backbone": {"model": "demo"}, "tasks": [{"name": "a", "source": {"kind": "demo", "task": "a"}}]}


def spec(**changes: Any) -> JobSpec:
    return parse_spec(JOB | changes)


def finished(store: Store, job: JobSpec, *, seconds: float | None = 5.0, state: str = "done") -> None:
    """A job with one group that took 10 steps of 16 images and 4 texts."""
    job_id = store.create_job(job)[0].id
    attempt = store.start_attempt(job_id)
    for step in (JobState.VALIDATING, JobState.GROUPING, JobState.TRAINING):
        store.move(job_id, step, attempt=attempt)
    row = {"id": "g1", "kind": "plan", "tasks": ["a"], "state": state, "num_steps": 10, "seconds": seconds}
    store.put_groups(job_id, [row | {"images_per_step": 16, "texts_per_step": 4}], attempt)


def test_a_group_like_those_before_it_costs_what_they_took() -> None:
    store = Store("sqlite://")
    assert learned_costs(store, spec()) is None
    finished(store, spec())
    model = learned_costs(store, spec(name="another", training={"batch_size": 32}))
    assert model is not None
    assert abs(model.seconds(16, 4) - 0.5) < 0.02
    assert model.num_groups == 1


def test_sharing_changes_no_price_and_another_method_backbone_or_device_does() -> None:
    store = Store("sqlite://")
    finished(store, spec())
    assert learned_costs(store, spec(method={"kind": "mmap", "sharing": "alone"})) is not None
    for other in (
        {"method": {"kind": "mmap", "num_tokens": 6, "source_shape": [3, 2]}},
        {"method": {"kind": "coop"}},
        {"backbone": {"model": "demo", "precision": "bf16"}},
        {"resources": {"devices_per_group": 2}},
    ):
        assert learned_costs(store, spec(**other)) is None, other


def test_only_what_finished_counts() -> None:
    store = Store("sqlite://")
    finished(store, spec(), state="failed")
    finished(store, spec(), seconds=None)
    assert learned_costs(store, spec()) is None
    assert store.finished_groups() == []
    for _ in range(3):
        finished(store, spec())
    assert len(store.finished_groups()) == 3
    assert len(store.finished_groups(limit=2)) == 2
