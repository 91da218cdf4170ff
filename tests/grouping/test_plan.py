"""The plan: every task once, the same answer for the same measurements, demands kept, and words that hold."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grouping.config import GroupingConfig
from grouping.plan import Plan, make_plan, trivial_plan
from tests.grouping.planted import planted

TWO_FAMILIES = [0, 0, 0, 1, 1, 1]
NAMES = ["art", "clipart", "sketch", "mnist", "svhn", "usps"]


def partition(plan: Plan) -> set[frozenset[str]]:
    return {frozenset(group.tasks) for group in plan.groups}


def plan_of(gradients: np.ndarray, names: list[str] | None = None, **config) -> Plan:
    return make_plan(gradients, names or NAMES[: gradients.shape[2]], GroupingConfig(**config))


def timeless(plan: Plan) -> dict:
    """The reasons of every task, but for their course over the snapshots."""
    kept = {reason.task: reason.model_dump() for reason in plan.tasks}
    for reason in kept.values():
        if reason["why"] is not None:
            reason["why"]["trend"] = sorted(reason["why"]["trend"])
    return kept


jobs = st.fixed_dictionaries(
    {
        "labels": st.lists(st.integers(0, 3), min_size=1, max_size=9),
        "sigma": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "gamma": st.sampled_from([0.0, 2.0]),
        "num_snapshots": st.integers(1, 4),
        "num_microbatches": st.integers(2, 4),
        "seed": st.integers(0, 1000),
    }
)
configs = st.sampled_from([{}, {"similarity": "cosine"}, {"max_group_size": 2}])
laws = settings(max_examples=25, deadline=None, derandomize=True)


@laws
@given(job=jobs, config=configs, order=st.randoms(use_true_random=False))
def test_order_of_tasks_and_snapshots_and_scale_of_a_task_change_nothing(job, config, order):
    """T14."""
    gradients = planted(num_params=60, **job)
    names = [f"task{index}" for index in range(gradients.shape[2])]
    plan = plan_of(gradients, names, **config)
    assert sorted(task for group in plan.groups for task in group.tasks) == sorted(names)
    assert sorted(plan.order) == sorted(names)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan

    tasks = order.sample(range(len(names)), len(names))
    snapshots = order.sample(range(len(gradients)), len(gradients))
    moved = plan_of(gradients[snapshots][:, :, tasks], [names[task] for task in tasks], **config)
    assert moved.groups == plan.groups
    assert moved.order == plan.order
    assert timeless(moved) == timeless(plan)

    scaled = gradients.copy()
    scaled[:, :, 0] *= 1000
    assert partition(plan_of(scaled, names, **config)) == partition(plan)


@laws
@given(job=jobs, config=st.sampled_from([{}, {"similarity": "cosine"}, {"num_groups": 2}]))
def test_a_duplicate_joins_its_twin_and_an_opposite_never_does(job, config):
    """T14."""
    # Up to noise like the signal: a task that hardly agrees with itself cannot be known for its own twin.
    job = {**job, "labels": [*job["labels"], 0, 1], "sigma": min(job["sigma"], 1.0)}
    gradients = planted(num_params=60, **job)
    names = [f"task{index}" for index in range(gradients.shape[2] + 1)]
    twin = plan_of(np.concatenate([gradients, gradients[:, :, :1]], axis=2), names, **config)
    group_of = {reason.task: reason.group for reason in twin.tasks}
    assert group_of[names[-1]] == group_of[names[0]]
    mirrored = plan_of(np.concatenate([gradients, -gradients[:, :, :1]], axis=2), names, **config)
    group_of = {reason.task: reason.group for reason in mirrored.tasks}
    assert group_of[names[-1]] != group_of[names[0]]


@laws
@given(job=jobs, num_groups=st.integers(1, 9), similarity=st.sampled_from(["cross_fit", "cosine"]))
def test_a_fixed_number_of_groups_is_honoured(job, num_groups, similarity):
    gradients = planted(num_params=60, **job)
    names = [f"task{index}" for index in range(gradients.shape[2])]
    wanted = min(num_groups, len(names))
    plan = plan_of(gradients, names, num_groups=wanted, similarity=similarity)
    assert plan.num_groups == len(plan.groups) == wanted


@pytest.mark.parametrize("similarity", ["cross_fit", "cosine"])
def test_one_task_trains_alone(similarity: str):
    plan = plan_of(planted([0]), ["art"], similarity=similarity)
    assert [group.tasks for group in plan.groups] == [["art"]]
    assert plan.tasks[0].sentence == "art trains alone: no other task could be compared with it."


@pytest.mark.parametrize(("sign", "num_groups"), [(1, 1), (-1, 2)])
@pytest.mark.parametrize("similarity", ["cross_fit", "cosine"])
def test_two_tasks_join_if_they_agree_and_part_if_they_oppose(sign: int, num_groups: int, similarity: str):
    gradients = planted([0, 0], sigma=0.5)
    gradients[:, :, 1] = sign * gradients[:, :, 0]
    assert plan_of(gradients, similarity=similarity).num_groups == num_groups


def test_group_ids_follow_the_first_task_name():
    plan = plan_of(planted(TWO_FAMILIES, sigma=0.5))
    assert [(group.id, group.tasks) for group in plan.groups] == [
        ("g1", ["art", "clipart", "sketch"]),
        ("g2", ["mnist", "svhn", "usps"]),
    ]


def test_reasons_name_partners_the_nearest_stranger_and_the_margin():
    plan = plan_of(planted(TWO_FAMILIES, sigma=0.5))
    reason = plan.tasks[0]
    assert reason.margin is not None
    assert plan.similarity is not None
    row = plan.similarity[0]
    stranger = max(range(3, 6), key=lambda task: row[task] or 0.0)
    assert reason.sentence.startswith("art trains with clipart and sketch: similarity 0.")
    assert f"nearest task outside is {NAMES[stranger]} at {row[stranger]:.2f} ± 0." in reason.sentence
    assert reason.sentence.endswith(f"It fits g1 better than any other group by {reason.margin:.2f}.")
    assert [neighbour.similarity for neighbour in reason.nearest] == sorted(
        (value for task, value in enumerate(row) if task != 0 and value is not None), reverse=True
    )
    assert plan.groups[0].reason.startswith("art, clipart and sketch agree with each other at 0.")


def test_dendrogram_order_keeps_families_side_by_side():
    gradients = planted([0, 1, 0, 1, 0, 1], sigma=0.5)
    order = plan_of(gradients).order
    family = [NAMES.index(name) % 2 for name in order]
    assert family in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


def test_the_plan_is_compared_with_one_group_and_with_all_alone():
    plan = plan_of(planted(TWO_FAMILIES, sigma=0.5))
    assert plan.objective["chosen"] > max(plan.objective["one_group"], plan.objective["all_alone"])
    assert plan.second_opinion is not None
    assert plan.second_opinion.solver == "exact"
    assert plan.second_opinion.agreement == 1.0
    assert plan.second_opinion.gap == 0.0


def test_tasks_without_a_usable_gradient_get_a_group_of_their_own_with_the_reason():
    gradients = planted([*TWO_FAMILIES, 0, 1], sigma=0.5)
    gradients[0, 1, 6] = 0.0
    gradients[0, 0, 7, 3] = np.nan
    plan = make_plan(gradients, [*NAMES, "blank", "broken"], GroupingConfig())
    assert partition(plan) >= {frozenset(["blank"]), frozenset(["broken"])}
    assert plan.num_groups == 4
    assert plan.excluded == {
        "blank": "its gradient is zero in 1 of 10 measurements",
        "broken": "its gradient is not finite in 1 of 10 measurements",
    }
    assert "blank trains alone: its gradient is zero in 1 of 10" in plan.tasks[6].sentence
    assert plan.similarity is not None
    assert plan.similarity[6][0] is None
    assert "NaN" not in plan.model_dump_json()
    json.loads(plan.model_dump_json(), parse_constant=lambda constant: pytest.fail(f"{constant} in the JSON"))


def test_a_must_link_holds_even_for_a_task_without_a_gradient():
    gradients = planted([*TWO_FAMILIES, 0], sigma=0.5)
    gradients[:, :, 6] = 0.0
    config = GroupingConfig(must_link=[("blank", "mnist")], max_group_size=4)
    plan = make_plan(gradients, [*NAMES, "blank"], config)
    assert frozenset(["blank", "mnist", "svhn", "usps"]) in partition(plan)
    assert "blank is in g2 only because must_link ties it to mnist, svhn and usps" in plan.tasks[6].sentence


def test_no_usable_gradient_at_all_leaves_everybody_alone():
    plan = plan_of(np.zeros((2, 2, 2, 5)))
    assert partition(plan) == {frozenset(["art"]), frozenset(["clipart"])}
    assert set(plan.excluded) == {"art", "clipart"}
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("similarity", ["cross_fit", "cosine"])
def test_links_and_sizes_are_kept(similarity: str):
    plan = plan_of(
        planted(TWO_FAMILIES, sigma=0.5),
        max_group_size=2,
        must_link=[("art", "mnist")],
        cannot_link=[("svhn", "usps")],
        similarity=similarity,
    )
    groups = partition(plan)
    assert frozenset(["art", "mnist"]) in groups
    assert frozenset(["svhn", "usps"]) not in groups
    assert max(len(group) for group in groups) <= 2


def test_links_are_kept_where_no_structure_was_found():
    plan = plan_of(planted([0] * 6, sigma=1), cannot_link=[("art", "sketch")])
    group_of = {reason.task: reason.group for reason in plan.tasks}
    assert group_of["art"] != group_of["sketch"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"must_link": [("art", "cars")]}, "must_link names 'cars', which is no task of this job. Its tasks are 'art'"),
        ({"cannot_link": [("art", "art")]}, "cannot_link pairs 'art' with itself. Name two different tasks"),
        (
            {"must_link": [("art", "usps"), ("usps", "svhn")], "cannot_link": [("svhn", "art")]},
            "cannot_link parts 'svhn' and 'art', but must_link keeps 'art', 'svhn', 'usps' together. Drop one",
        ),
        (
            {"must_link": [("art", "usps"), ("usps", "svhn")], "max_group_size": 2},
            "must_link keeps 3 tasks together ('art', 'svhn', 'usps'), but max_group_size=2. Allow at least 3",
        ),
        ({"num_groups": 7}, "num_groups=7 exceeds the 6 tasks of this job. Use at most 6, or `auto`."),
        (
            {"num_groups": 2, "max_group_size": 2},
            "2 groups of at most 2 tasks hold 4 of the 6 tasks of this job. Use num_groups of at least 3",
        ),
        (
            {"num_groups": 6, "must_link": [("art", "usps")]},
            "num_groups=6, but must_link leaves only 5 separable units of tasks. Use at most 5",
        ),
        (
            {"num_groups": 1, "cannot_link": [("art", "usps")]},
            "the links cannot be met with 1 group of any size. Allow more groups or larger ones",
        ),
    ],
)
@pytest.mark.parametrize("similarity", ["cross_fit", "cosine"])
def test_demands_that_cannot_be_met_are_refused_with_a_way_out(config: dict, message: str, similarity: str):
    with pytest.raises(ValueError) as refused:
        plan_of(planted(TWO_FAMILIES), **config, similarity=similarity)
    assert str(refused.value).startswith("GroupingConfig: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("gradients", "names", "message"),
    [
        (
            np.ones((2, 2, 3)),
            ["a", "b", "c"],
            r"shape \(2, 2, 3\); expected \[snapshots, microbatches, tasks, params\]",
        ),
        (np.ones((2, 2, 3, 4)), ["a", "b"], r"Gradients hold 3 tasks \(shape \(2, 2, 3, 4\)\), but 2 names were given"),
        (np.ones((2, 2, 2, 4)), ["a", "a"], "'a' appears more than once"),
        (np.ones((2, 2, 1, 4), dtype=int), ["a"], "expected floating point numbers"),
        (np.ones((2, 1, 1, 4)), ["a"], "Use profile.microbatches of at least 2, or `similarity: cosine`"),
        (np.ones((2, 2, 0, 4)), [], "at least one task"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(gradients: np.ndarray, names: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        make_plan(gradients, names, GroupingConfig())


def test_plain_cosine_works_with_one_microbatch():
    plan = plan_of(planted(TWO_FAMILIES, num_microbatches=1), similarity="cosine")
    assert plan.num_groups == 2
    assert plan.reliability is None


def test_a_noisy_task_is_told_so():
    plan = plan_of(planted(TWO_FAMILIES, sigma=[0.5, 0.5, 30, 0.5, 0.5, 0.5], num_microbatches=4))
    assert "Its gradient is noisy (reliability" in plan.tasks[2].sentence


def test_given_plans_measure_nothing():
    alone, together = trivial_plan(["b", "a"], "alone"), trivial_plan(["b", "a"], "all")
    assert [group.tasks for group in alone.groups] == [["a"], ["b"]]
    assert [group.tasks for group in together.groups] == [["a", "b"]]
    for plan in (alone, together):
        assert plan.task_names == ["b", "a"]
        assert plan.similarity is None
        assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_gradients_shaped_like_a_real_prompt_are_grouped_quickly():
    """Eleven tasks, four snapshots, eight microbatches, 9,216 float32 numbers of which few are effective."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((150, 9216)) * (np.arange(1, 151) ** -0.25)[:, None]
    low = planted([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2], sigma=1, num_snapshots=4, num_microbatches=8, num_params=150)
    plan = make_plan((low @ basis).astype(np.float32), [f"t{i:02d}" for i in range(11)], GroupingConfig())
    assert partition(plan) == {
        frozenset(["t00", "t01", "t02", "t03"]),
        frozenset(["t04", "t05", "t06"]),
        frozenset(["t07", "t08", "t09", "t10"]),
    }
