"""Groups that were given are held against the same measurements as those that a solver found."""

import json
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grouping.comparison import compare
from grouping.config import GroupingConfig
from grouping.given import plan_of_groups
from grouping.measurement import Measurement, measure
from grouping.plan import Plan, plan_from
from grouping.review import Review, review
from tests.grouping.planted import planted

NAMES = ["art", "clipart", "sketch", "mnist", "svhn", "usps", "cars", "planes", "ships"]
THREE_FAMILIES = np.arange(9) // 3
TRUE = {"g1": NAMES[:3], "g2": NAMES[3:6], "g3": NAMES[6:]}
MIXED = {"g4": ["mnist", "art", "clipart", "sketch"], "g2": ["svhn", "usps"], "g7": ["ships", "cars", "planes"]}


def measured(sigma: float = 1.0, *, without: str | None = None, **settings) -> Measurement:
    gradients = planted(THREE_FAMILIES, sigma=sigma, **settings)
    if without is not None:
        gradients[:, :, NAMES.index(without)] = 0
    return measure(gradients, NAMES)


def edited(measurement: Measurement, groups: dict[str, list[str]], **config) -> Plan:
    return plan_of_groups(measurement, groups, GroupingConfig(**config), origin="edited", summary="A person's groups.")


@pytest.mark.parametrize("similarity", ["cross_fit", "cosine"])
def test_the_groups_that_a_solver_found_are_worth_the_same_when_they_are_given(similarity: str):
    measurement = measured()
    found = plan_from(measurement, GroupingConfig(similarity=similarity))  # pyright: ignore[reportArgumentType]
    same = edited(measurement, found.outline().groups, similarity=similarity)
    kept = {
        "task_names", "num_groups", "groups", "tasks", "order", "similarity", "standard_error", "cosine",
        "reliability", "threshold", "objective", "excluded", "settings", "verdict",
    }  # fmt: skip
    assert same.model_dump(include=kept) == found.model_dump(include=kept)
    assert (same.origin, same.solver, same.gap, same.second_opinion) == ("edited", "given", None, None)
    assert same.summary.startswith("A person's groups. Of the gradients alone: ")


def test_given_groups_keep_their_ids_and_every_number_is_finite():
    plan = edited(measured(), MIXED)
    assert {group.id: group.tasks for group in plan.groups} == {group: sorted(tasks) for group, tasks in MIXED.items()}
    assert plan.objective["chosen"] < edited(measured(), TRUE).objective["chosen"]
    mnist = plan.tasks[NAMES.index("mnist")]
    assert (mnist.group, mnist.next_group) == ("g4", "g2")
    assert mnist.margin is not None and mnist.margin < 0
    assert "By similarity alone it would fit g2 better" in mnist.sentence
    assert plan.verdict is not None and plan.verdict.kind == "groups"
    assert Plan.model_validate(json.loads(plan.model_dump_json())) == plan


def test_a_task_that_was_set_apart_although_it_is_near_is_told_so():
    plan = edited(measured(), {"g1": ["art"], "g2": NAMES[1:3], "g3": NAMES[3:]})
    assert plan.tasks[0].sentence.startswith("art trains alone: the nearest task is")
    assert "but the groups were given so." in plan.tasks[0].sentence


def test_a_task_without_a_usable_gradient_stays_where_it_was_put():
    plan = edited(measured(without="art"), TRUE)
    assert plan.groups[0].tasks == ["art", "clipart", "sketch"]
    assert plan.tasks[0].sentence.startswith("art is in g1 with clipart and sketch, as given: ")
    assert list(plan.excluded) == ["art"]
    assert "for want of a usable gradient: art." in plan.summary

    pair = edited(measured(without="art"), {"g1": ["art", "clipart"], "g2": ["sketch"], "g3": NAMES[3:]})
    assert pair.groups[0].reason.startswith("Of art and clipart only clipart could be compared; the nearest task")
    assert "clipart trains with art, not comparable with it: the nearest task is" in pair.tasks[1].sentence


def test_groups_of_tasks_without_any_usable_gradient_are_kept_without_numbers():
    measurement = measure(np.zeros((2, 2, 9, 5)), NAMES)
    plan = edited(measurement, MIXED)
    assert {group.id: group.tasks for group in plan.groups} == {group: sorted(tasks) for group, tasks in MIXED.items()}
    assert (plan.origin, plan.num_groups, plan.similarity, plan.objective, plan.verdict) == (
        "edited",
        3,
        None,
        {},
        None,
    )
    assert [reason.group for reason in plan.tasks] == ["g4"] * 3 + ["g4"] + ["g2"] * 2 + ["g7"] * 3
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("groups", [{"g1": ["a"]}, {"g1": ["a", "b"]}, {"g2": ["a"], "g1": ["b"]}])
def test_one_and_two_tasks_can_be_given(groups: dict[str, list[str]]):
    names = sorted(task for tasks in groups.values() for task in tasks)
    plan = edited(measure(planted([0] * len(names), sigma=0.5), names), groups)
    assert plan.outline().groups == groups


def test_a_verdict_does_not_hang_on_the_groups_that_were_given():
    measurement = measured(sigma=8)
    plan = edited(measurement, TRUE)
    assert plan.verdict == plan_from(measurement, GroupingConfig()).verdict
    assert plan.verdict is not None and plan.verdict.kind == "too_noisy"
    assert plan.num_groups == 3


def test_given_groups_need_not_be_as_many_as_a_solver_was_told_to_find():
    assert edited(measured(), TRUE, num_groups=3).settings.num_groups == 3
    assert edited(measured(), MIXED, num_groups=2).settings.num_groups == "auto"
    assert edited(measured(), TRUE, num_groups=2, max_group_size=3).settings.max_group_size == 3


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"g1": NAMES[:8]}, "no group holds 'ships'"),
        ({"g1": NAMES, "g2": ["art"]}, "'art' stands in g1 and again in g2"),
        ({"g1": [*NAMES, "art"]}, "'art' stands in g1 and again in g1"),
        ({"g1": NAMES, "g2": []}, "g2 holds no task"),
        ({"g1": [*NAMES, "boats"]}, "g1 names 'boats', which is no task of this job"),
        ({"../all": NAMES}, "'../all' is no id of a group"),
        ({"all": NAMES}, "'all' is no id of a group"),
        ({}, "no group holds 'art', "),
    ],
)
def test_groups_that_are_no_exact_cover_are_refused(groups: dict[str, list[str]], said: str):
    with pytest.raises(ValueError, match=said):
        edited(measured(), groups)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"must_link": [("art", "usps")]}, "'art' is in g1 and 'usps' in g2, but must_link keeps them together"),
        ({"cannot_link": [("art", "sketch")]}, "g1 holds 'art' and 'sketch', but cannot_link parts them"),
        ({"pinned": [["art", "clipart"]]}, "g1 holds art, clipart, sketch, but pinned keeps art, clipart as a group"),
        ({"max_group_size": 2}, "g1 holds 3 tasks, and max_group_size=2"),
        ({"max_group_cost": 5.0}, "the tasks of g1 cost 6, and max_group_cost=5"),
        ({"must_link": [("art", "boats")]}, "must_link names 'boats', which is no task of this job"),
    ],
)
def test_groups_that_break_a_demand_of_the_config_are_refused(config: dict, said: str):
    costs = dict.fromkeys(NAMES, 2.0)
    with pytest.raises(ValueError, match=said):
        plan_of_groups(measured(), TRUE, GroupingConfig(**config), origin="edited", summary="Mine.", costs=costs)


def test_groups_that_keep_every_demand_are_taken():
    costs = dict.fromkeys(NAMES, 2.0)
    config = GroupingConfig(
        must_link=[("art", "sketch")],
        cannot_link=[("art", "usps")],
        pinned=[NAMES[3:6]],
        max_group_size=3,
        max_group_cost=6.0,
    )
    plan = plan_of_groups(measured(), TRUE, config, origin="joined", summary="Joined.", costs=costs)
    assert (plan.origin, plan.settings) == ("joined", config)
    with pytest.raises(ValueError, match="no cost is known of 'art'"):
        plan_of_groups(measured(), TRUE, config, origin="joined", summary="Joined.")


jobs = st.fixed_dictionaries(
    {
        "labels": st.lists(st.integers(0, 3), min_size=1, max_size=8),
        "sigma": st.sampled_from([0.0, 1.0, 6.0]),
        "gamma": st.sampled_from([0.0, 2.0]),
        "num_snapshots": st.integers(1, 3),
        "num_microbatches": st.integers(1, 4),
        "seed": st.integers(0, 1000),
    }
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(job=jobs, draw=st.data())
def test_any_partition_of_any_job_can_be_told_reviewed_and_compared(job: dict, draw: st.DataObject):
    gradients = planted(num_params=40, **job)
    names = [f"task{index}" for index in range(gradients.shape[2])]
    for task in draw.draw(st.sets(st.integers(0, len(names) - 1), max_size=2)):
        gradients[:, :, task] = 0
    seats = draw.draw(st.lists(st.integers(1, 4), min_size=len(names), max_size=len(names)))
    groups = {f"g{seat}": [name for name, at in zip(names, seats, strict=True) if at == seat] for seat in set(seats)}
    choices: list[Literal["cross_fit", "cosine", "random"]] = ["cosine", "random"]
    if job["num_microbatches"] > 1:  # one has nothing to be held against
        choices.append("cross_fit")
    config = GroupingConfig(similarity=draw.draw(st.sampled_from(choices)))
    measurement = measure(gradients, names)
    plan = plan_of_groups(measurement, groups, config, origin="edited", summary="Mine.")
    assert plan.outline().groups == groups
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    seen = review(gradients, measurement, plan, resamples=2)
    assert Review.model_validate_json(seen.model_dump_json()) == seen
    found = plan_from(measurement, config, second_opinion=False)
    there, back = compare(measurement, plan, found), compare(measurement, found, plan)
    assert there.rand_index == pytest.approx(back.rand_index)
    assert there.second_objective == pytest.approx(back.first_objective)
    assert (there.moved == []) == (set(map(tuple, groups.values())) == {tuple(group.tasks) for group in found.groups})
