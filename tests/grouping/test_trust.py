"""A plan that knows how sure it is: verdict, confidence, affinities side by side, newcomers, and what a task's place is
made of."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from bench.schedule import World, lower_bound, makespan
from grouping.affinities import agreements
from grouping.confidence import confidence
from grouping.config import GroupingConfig
from grouping.decision import Finding
from grouping.factor import group_many
from grouping.group_ids import group_ids
from grouping.measurement import Measurement, TaskFacts, measure
from grouping.newcomers import place
from grouping.plan import Plan, make_plan, plan_from
from grouping.structure import Structure
from tests.grouping.planted import planted

SIX_GROUPS = np.arange(60) % 6
THREE_GROUPS = np.arange(12) % 3


def names_of(labels) -> list[str]:
    return [f"task{index:03d}" for index in range(len(labels))]


def agreement(plan: Plan, truth) -> float:
    group_of = {task: group.id for group in plan.groups for task in group.tasks}
    return float(adjusted_rand_score(truth, [group_of[name] for name in plan.task_names]))


@pytest.mark.parametrize(("sigma", "kind"), [(2, "groups"), (8, "too_noisy")])
def test_the_verdict_refuses_what_noise_hides_and_says_what_is_needed(sigma: float, kind: str):
    """T4: with noise eight times the signal all train together, marked so."""
    gradients = planted(SIX_GROUPS, sigma=sigma)
    measured = measure(gradients, names_of(SIX_GROUPS))
    plan = plan_from(measured, GroupingConfig(), second_opinion=False)
    assert plan.verdict is not None
    assert plan.verdict.kind == kind
    assert plan.verdict.sentence in plan.summary
    sure = confidence(gradients, measured, GroupingConfig(), [group.tasks for group in plan.groups], resamples=8)
    assert sure is not None
    if kind == "groups":
        assert (agreement(plan, SIX_GROUPS), plan.verdict.needed, sure.word) == (1.0, None, "firm")
        assert sure.ambiguous < 0.05
    else:
        assert plan.num_groups == 1
        assert plan.verdict.needed is not None and plan.verdict.needed > 50
        assert sure.rand_index < 0.1
        assert sure.word == "refuse"


def test_the_verdict_judges_the_groups_that_were_too_noisy_and_not_the_one_group_taken_instead():
    proposal, one_group = np.array([0, 0, 1]), np.zeros(3, dtype=int)
    structure = Structure(found=True, threshold=0.5)
    assert Finding(structure, True, proposal).judged(one_group) is proposal
    assert Finding(structure, False, proposal).judged(one_group) is one_group
    assert Finding(structure, True, None).judged(one_group) is one_group


def test_tasks_that_stand_wrong_have_small_margins():
    """T19, 2 seeds: noise 4.5, 6 snapshots, 4 microbatches."""
    config, right, margins = GroupingConfig(num_groups=6), [], []
    for seed in range(2):
        gradients = planted(SIX_GROUPS, sigma=4.5, num_snapshots=6, num_microbatches=4, seed=seed)
        measured = measure(gradients, names_of(SIX_GROUPS))
        groups = [group.tasks for group in plan_from(measured, config, second_opinion=False).groups]
        sure = confidence(gradients, measured, config, groups, resamples=30)
        assert sure is not None
        kind_of = dict(zip(names_of(SIX_GROUPS), SIX_GROUPS, strict=True))
        most = {task: np.bincount([kind_of[t] for t in tasks]).argmax() for tasks in groups for task in tasks}
        right += [most[task.task] == kind_of[task.task] for task in sure.tasks]
        margins += [task.margin for task in sure.tasks]
    assert not all(right)
    assert roc_auc_score(right, margins) >= 0.9


def test_tasks_of_one_kind_and_tasks_without_relation_show_no_groups():
    for labels in ([0] * 8, range(8)):
        plan = make_plan(planted(labels, sigma=1), names_of(labels), GroupingConfig())
        assert plan.verdict is not None
        assert plan.verdict.kind == "one_group"


def test_effective_dimension_is_that_of_the_noise():
    for num_microbatches in (2, 4):
        job = planted([0] * 20, sigma=2, num_params=100, num_microbatches=num_microbatches)
        assert 80 < measure(job, names_of(range(20))).effective_dimension < 125


def test_a_measurement_comes_back_from_its_arrays():
    facts = TaskFacts(
        losses=np.ones((5, 2, 12)), block_names=["text.0", "image.0"], block_offsets=np.array([0, 80, 200])
    )
    before = measure(planted(THREE_GROUPS, sigma=1), names_of(THREE_GROUPS), facts)
    after = Measurement.of_arrays(before.arrays())
    assert plan_from(after, GroupingConfig()) == plan_from(before, GroupingConfig())


def test_parts_of_the_prompt_add_up_to_the_similarity():
    facts = TaskFacts(block_names=["text.0", "text.1", "image.0"], block_offsets=np.array([0, 40, 90, 200]))
    plan = make_plan(planted(THREE_GROUPS, sigma=1), names_of(THREE_GROUPS), GroupingConfig(), facts=facts)
    assert plan.similarity is not None
    for index, reason in enumerate(plan.tasks):
        partners = [t for t in range(12) if t != index and THREE_GROUPS[t] == THREE_GROUPS[index]]
        expected = np.mean([plan.similarity[index][t] or 0.0 for t in partners])
        assert reason.why is not None
        assert sum(part.own or 0.0 for part in reason.why.blocks) == pytest.approx(expected)
        assert np.mean(reason.why.trend) == pytest.approx(expected)
        assert "% from the text prompts" in reason.sentence
        near = reason.nearest[0]
        assert near.low is not None and near.high is not None and near.low <= near.similarity <= near.high


def test_affinities_from_the_gradients_agree_and_chance_agrees_with_nobody():
    facts = TaskFacts(losses=np.ones((5, 2, 60)), text_centroids=np.eye(6)[SIX_GROUPS] + 1, image_centroids=np.eye(60))
    measured = measure(planted(SIX_GROUPS, sigma=1), names_of(SIX_GROUPS), facts)
    table = {(row.first, row.second): row for row in agreements(measured, 6, seed=0)}
    assert len(table) == 15
    assert table["cross_fit", "cosine"].rand_index == 1.0
    assert table["cross_fit", "tag"].rand_index > 0.9
    assert table["cross_fit", "text"].rand_index == 1.0
    assert abs(table["cross_fit", "random"].rand_index) < 0.15
    assert abs(table["cross_fit", "random"].spearman or 0.0) < 0.15


@pytest.mark.parametrize("similarity", ["tag", "text", "image"])
def test_an_affinity_groups_by_itself_or_says_what_it_lacks(similarity: str):
    gradients, config = planted(THREE_GROUPS, sigma=0.5), GroupingConfig(similarity=similarity, num_groups=3)  # pyright: ignore[reportArgumentType]
    known = np.eye(3)[THREE_GROUPS]
    facts = TaskFacts(losses=np.ones((5, 2, 12)), text_centroids=known, image_centroids=known)
    assert agreement(make_plan(gradients, names_of(THREE_GROUPS), config, facts=facts), THREE_GROUPS) == 1.0
    with pytest.raises(ValueError, match=f"similarity={similarity} needs"):
        make_plan(gradients, names_of(THREE_GROUPS), config)


def test_costs_and_pinned_groups_are_kept():
    names = names_of(THREE_GROUPS)
    costs = {name: 1.0 + index % 2 for index, name in enumerate(names)}
    config = GroupingConfig(max_group_cost=4.0, pinned=[[names[0], names[1]]])
    plan = make_plan(planted(THREE_GROUPS, sigma=0.5), names, config, costs=costs)
    assert [names[0], names[1]] in [group.tasks for group in plan.groups]
    assert max(sum(costs[task] for task in group.tasks) for group in plan.groups) <= 4.0
    assert (plan.solver, plan.gap) == ("exact", 0.0)
    with pytest.raises(ValueError, match="no cost is known of 'task000'"):
        make_plan(planted(THREE_GROUPS), names, GroupingConfig(max_group_cost=4.0))
    with pytest.raises(ValueError, match=r"'task000' cost 9, and max_group_cost=4 is less\. Allow at least 9"):
        make_plan(planted(THREE_GROUPS), names, GroupingConfig(max_group_cost=4.0), costs={**costs, "task000": 9.0})
    with pytest.raises(ValueError, match="must_link joins 'task000' and 'task002', but a pinned group holds only one"):
        make_plan(
            planted(THREE_GROUPS), names, GroupingConfig(pinned=[["task000"]], must_link=[("task000", "task002")])
        )


def test_newcomers_find_their_group_and_strangers_start_a_new_one():
    """T17, 3 seeds: 60 known tasks, 20 newcomers of their groups and 10 of an unseen one."""
    labels = np.concatenate([SIX_GROUPS, np.arange(20) % 6, np.full(10, 6)])
    names = names_of(labels)
    groups = {f"g{k + 1}": [names[t] for t in range(60) if labels[t] == k] for k in range(6)}
    right, strangers = [], []
    for seed in range(3):
        job = planted(labels, sigma=2, gamma=1, seed=seed)
        found = place(job[:, :, :60], names[:60], groups, job[:, :, 60:], names[60:], GroupingConfig())
        right += [placed.group == f"g{labels[60 + t] + 1}" for t, placed in enumerate(found[:20])]
        strangers += [placed.is_new for placed in found[20:]]
    assert np.mean(right) >= 0.98
    assert np.mean(strangers) >= 0.95


def test_groups_keep_the_id_of_the_group_they_share_most_with():
    before = {"g1": ["a", "b", "c"], "g2": ["d", "e"]}
    assert group_ids([["d"], ["b", "c", "e"], ["x"]], before) == ["g2", "g1", "g3"]
    assert group_ids([["a"], ["b"]]) == ["g1", "g2"]


def test_the_factored_form_finds_the_groups_of_many_tasks():
    """T18, small."""
    truth = np.arange(400) % 20
    groups = group_many(planted(truth, sigma=1, gamma=0.5, num_snapshots=3), names_of(truth), 20)
    found = {task: group for group, tasks in groups.items() for task in tasks}
    assert adjusted_rand_score(truth, [found[name] for name in names_of(truth)]) >= 0.95


def test_the_factored_form_takes_tasks_that_coincide():
    truth = np.arange(40) % 3
    groups = group_many(np.eye(8)[truth] * np.ones((2, 2, 1, 1)), names_of(truth), 5)
    assert sorted(task for tasks in groups.values() for task in tasks) == names_of(truth)
    assert 3 <= len(groups) <= 5
    assert all(len({int(task[4:]) % 3 for task in tasks}) == 1 for tasks in groups.values())


def test_longest_first_dispatch_stays_within_five_percent_of_the_bound():
    costs = np.random.default_rng(0).lognormal(0.0, 0.5, 5_000)
    assert makespan(costs, 1_000, World(), seed=0) <= 1.05 * lower_bound(costs, 1_000)
    assert makespan(costs, 1_000, World(failures=0.1), seed=0) >= lower_bound(costs, 1_000)


@pytest.mark.parametrize(
    "demand",
    [
        {"num_groups": 2},
        {"max_group_size": 2},
        {"must_link": [("task000", "task001")]},
        {"pinned": [["task000", "task001"]]},
    ],
)
def test_the_verdict_is_the_same_whatever_is_demanded(demand: dict):
    measured = measure(planted(THREE_GROUPS, sigma=1), names_of(THREE_GROUPS))
    free = plan_from(measured, GroupingConfig())
    assert free.verdict is not None and free.verdict.kind == "groups"
    assert plan_from(measured, GroupingConfig(**demand)).verdict == free.verdict


@pytest.mark.parametrize("seed", range(6))
def test_a_verdict_of_too_much_noise_always_says_how_much_is_needed(seed: int):
    for sigma in (3, 5, 8, 12):
        plan = make_plan(planted(THREE_GROUPS, sigma=sigma, seed=seed), names_of(THREE_GROUPS), GroupingConfig())
        assert plan.verdict is not None
        if plan.verdict.kind == "too_noisy":
            assert plan.verdict.needed is not None and plan.verdict.needed > plan.verdict.measured
            assert "None" not in plan.verdict.sentence


@pytest.mark.parametrize(("shape", "seeds"), [((2, 2, 12, 200), 12), ((3, 2, 12, 200), 12), ((5, 4, 12, 200), 6)])
def test_pure_noise_plans_and_is_hardly_ever_called_groups(shape: tuple[int, ...], seeds: int):
    names = names_of(range(shape[2]))
    found = []
    for seed in range(seeds):
        plan = make_plan(np.random.default_rng(seed).standard_normal(shape), names, GroupingConfig())
        assert plan.verdict is not None
        found.append(plan.verdict.kind)
    assert found.count("groups") <= 1, found


def test_a_proposal_that_joins_opposed_tasks_gives_way_to_the_program():
    gradients = planted(THREE_GROUPS, sigma=0.3)
    gradients[:, :, 3] = -gradients[:, :, 0]
    plan = make_plan(gradients, names_of(THREE_GROUPS), GroupingConfig())
    group_of = {task: group.id for group in plan.groups for task in group.tasks}
    assert group_of["task003"] != group_of["task000"]


def test_too_little_data_has_no_confidence_and_random_groups_are_not_firm():
    for shape in ((1, 2, 6, 200), (2, 2, 6, 200), (1, 3, 6, 200)):
        noise = np.random.default_rng(0).standard_normal(shape)
        measured = measure(noise, names_of(range(6)))
        assert confidence(noise, measured, GroupingConfig(), [names_of(range(6))[:3], names_of(range(6))[3:]]) is None
    gradients = planted(THREE_GROUPS, sigma=0.5)
    measured, names = measure(gradients, names_of(THREE_GROUPS)), names_of(THREE_GROUPS)
    wrong = confidence(gradients, measured, GroupingConfig(), [names[:6], names[6:]], resamples=8)
    right = confidence(gradients, measured, GroupingConfig(), [names[0::3], names[1::3], names[2::3]], resamples=8)
    assert wrong is not None and right is not None
    assert (wrong.word, right.word) == ("refuse", "firm")
    assert "not those that the gradients give" in wrong.sentence
    assert confidence(gradients, measured, GroupingConfig(similarity="random"), [names[:6], names[6:]]) is None
    doubted = confidence(
        gradients, measured, GroupingConfig(), [names[0::3], names[1::3], names[2::3]], resamples=8, noisy=True
    )
    assert doubted is not None and doubted.word == "usable"
    cosine = confidence(
        gradients, measured, GroupingConfig(similarity="cosine"), [names[0::3], names[1::3], names[2::3]], resamples=8
    )
    assert cosine is not None and cosine.word != "refuse"
