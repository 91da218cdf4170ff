"""Similarities that no honest job has: the plan is a partition all the same, and the same for the same seed."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from grouping.config import GroupingConfig
from grouping.measurement import measure
from grouping.plan import Plan, plan_from
from grouping.review import review
from tests.grouping.planted import planted, unit

SHAPE = (3, 4, 8, 40)


def _like(gradients_TP: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """The same gradients in every snapshot and microbatch, with noise of that share of their norm."""
    num_snapshots, num_microbatches = SHAPE[:2]
    repeated = np.broadcast_to(gradients_TP, (num_snapshots, num_microbatches, *gradients_TP.shape)).copy()
    drawn = np.random.default_rng(0).standard_normal(repeated.shape) / np.sqrt(gradients_TP.shape[-1])
    return repeated + noise * drawn


def _simplex(count: int) -> np.ndarray:
    """Every pair at the most negative cosine that so many tasks can have together, -1 / (count - 1)."""
    return unit(np.eye(count, SHAPE[3]) - np.eye(count, SHAPE[3]).mean(axis=0))


def _with(value: float) -> np.ndarray:
    gradients = planted([0, 0, 1, 1, 0, 0, 1, 1], sigma=0.5, num_snapshots=3, num_microbatches=4, num_params=40)
    gradients[:, :, 3] = value
    return gradients


KINDS: dict[str, Callable[[], np.ndarray]] = {
    "identical": lambda: _like(np.ones((8, 40))),
    "identical up to noise": lambda: _like(np.ones((8, 40)), noise=2.0),
    "scaled": lambda: _like(np.outer(10.0 ** np.arange(-4, 4), np.ones(40))),
    "orthogonal": lambda: _like(np.eye(8, 40)),
    "orthogonal up to noise": lambda: _like(np.eye(8, 40), noise=0.5),
    "simplex": lambda: _like(_simplex(8)),
    "opposed": lambda: _like(np.outer([1, -1] * 4, np.ones(40))),
    "all zero": lambda: np.zeros(SHAPE),
    "one zero": lambda: _with(0.0),
    "one not a number": lambda: _with(np.nan),
    "one infinite": lambda: _with(np.inf),
    "only noise": lambda: np.random.default_rng(1).standard_normal(SHAPE),
    "one task": lambda: _like(np.ones((1, 40)), noise=0.3),
    "one task of zeros": lambda: np.zeros((3, 4, 1, 40)),
    "two tasks": lambda: _like(np.eye(2, 40), noise=0.3),
    "one parameter": lambda: np.random.default_rng(2).standard_normal((3, 4, 8, 1)),
    "one snapshot": lambda: planted([0, 0, 1, 1], num_snapshots=1),
    "two hundred": lambda: planted(np.arange(200) % 8, sigma=0.5, num_snapshots=2, num_params=60),
}
CONFIGS = {
    "auto": {},
    "three": {"num_groups": 3},
    "capped": {"max_group_size": 2},
    "paper": {"similarity": "cosine"},
    "correlation": {"solver": "correlation"},
}


def plan_of(gradients: np.ndarray, settings: dict, *, reviewed: bool = False) -> Plan:
    names = [f"t{index:03d}" for index in range(gradients.shape[2])]
    found = measure(gradients, names)
    plan = plan_from(found, GroupingConfig(**settings), second_opinion=gradients.shape[2] < 100)
    if reviewed:
        json.dumps(review(gradients, found, plan, resamples=5).model_dump(mode="json"), allow_nan=False)
    return plan


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_is_a_partition_and_the_same_for_the_same_seed(kind: str, settings: str) -> None:
    gradients, config = KINDS[kind](), CONFIGS[settings]
    names = [f"t{index:03d}" for index in range(gradients.shape[2])]
    if settings == "three" and len(names) < 3:
        config = {"num_groups": 1}
    plan = plan_of(gradients, config, reviewed=settings == "auto" and len(names) < 100)
    assert sorted(task for group in plan.groups for task in group.tasks) == names
    assert sorted(plan.order) == names
    assert all(group.tasks for group in plan.groups)
    text = json.dumps(plan.model_dump(mode="json"), allow_nan=False)  # no number of it is none
    if settings == "capped":
        assert max(len(group.tasks) for group in plan.groups) <= 2
    if len(names) < 100:
        assert json.dumps(plan_of(gradients, config).model_dump(mode="json")) == text


@pytest.mark.parametrize("kind", ["identical", "scaled"])
def test_tasks_that_are_the_same_share_one_group(kind: str) -> None:
    assert [len(group.tasks) for group in plan_of(KINDS[kind](), {}).groups] == [8]


@pytest.mark.parametrize("kind", ["one zero", "one not a number", "one infinite"])
def test_a_task_without_a_usable_gradient_is_left_out_with_a_reason_and_the_others_are_grouped(kind: str) -> None:
    plan = plan_of(KINDS[kind](), {})
    (alone,) = [group for group in plan.groups if "t003" in group.tasks]
    assert alone.tasks == ["t003"]
    (told,) = [reason for reason in plan.tasks if reason.task == "t003"]
    assert "gradient" in told.sentence
    assert len(plan.groups) == 3
