"""Arbitration with planted gains: what short runs show decides, whatever the similarities say."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grouping.arbitration import Arbitration, arbitrate, second_round
from grouping.config import GroupingConfig
from grouping.given import check_limits
from grouping.trials import Composition, first_round

Rate = Callable[[str, Composition], float]
"""How often a task is right when it trains in a group."""
GROUPS = {"g1": ["a", "b", "c"], "g2": ["d", "e", "f"]}
TASKS = sorted("abcdef")


def scores_of(rate: Rate, groups: Sequence[Composition], num_images: int = 200) -> dict:
    """The same images in every group: an image is right where its difficulty is below the rate, give or take a fifth of
    the images, which every training run sees in its own way."""

    def right(task: str, group: Composition) -> list[float]:
        difficulty = np.random.default_rng(ord(task[0])).random(num_images)
        own = np.random.default_rng([ord(task[0]), *(ord(other[-1]) for other in sorted(group))])
        difficulty = np.where(own.random(num_images) < 0.2, own.random(num_images), difficulty)
        return (difficulty < rate(task, group)).astype(float).tolist()

    return {group: {task: right(task, group) for task in sorted(group)} for group in groups}


def similar(groups: Mapping[str, Sequence[str]], inside: float = 0.5, outside: float = 0.0) -> dict:
    group_of = {task: id for id, tasks in groups.items() for task in tasks}
    return {
        a: {b: inside if group_of[a] == group_of[b] else outside for b in group_of if b != a} for a in sorted(group_of)
    }


def trial_of(
    rate: Rate,
    groups: Mapping[str, Sequence[str]] = GROUPS,
    similarity: dict | None = None,
    config: GroupingConfig | None = None,
    *,
    failing: Sequence[Composition] = (),
    num_images: int = 200,
    costs: Mapping[str, float] | None = None,
) -> Arbitration:
    """Both rounds."""
    similarity = similar(groups) if similarity is None else similarity
    config = config or GroupingConfig(arbitrate=True)
    runs = [group for group in first_round(groups) if group not in failing]
    scores = scores_of(rate, runs, num_images)
    more = [group for group in second_round(groups, scores, similarity, config, costs) if group not in failing]
    scores |= scores_of(rate, more, num_images)
    failures = dict.fromkeys(failing, "out of memory")
    return arbitrate(groups, scores, similarity, config, costs=costs, failures=failures)


def chosen(found: Arbitration) -> set[Composition]:
    return {frozenset(tasks) for tasks in found.groups.values()}


def sets(*groups: str) -> set[Composition]:
    return {frozenset(group) for group in groups}


def families(task: str, group: Composition, gain: float = 0.1, loss: float = 0.1) -> float:
    """A task gains beside its family and loses beside others."""
    family = next(set(tasks) for tasks in GROUPS.values() if task in tasks)
    mates = group - {task}
    return 0.6 + (gain * len(mates & family) / 2 if mates & family else 0.0) - (loss if mates - family else 0.0)


def test_a_good_grouping_is_kept():
    found = trial_of(families)
    assert found.outcome == "kept" and chosen(found) == sets("abc", "def")
    assert found.groups == GROUPS and found.actions == [] and found.num_rounds == 1
    assert found.gain is not None and found.gain.is_gain and found.gain == found.tested_gain
    assert all(task.over_alone is not None and task.over_alone.mean > 0 for task in found.tasks)


def test_no_gain_over_one_group_gives_one_group():
    found = trial_of(lambda task, group: 0.7)
    assert found.outcome == "one_group" and chosen(found) == sets("abcdef")
    assert found.gain is not None and found.gain.low < 0
    assert "One group" in found.sentence


def test_groups_that_score_exactly_like_one_group_give_one_group():
    runs = first_round(GROUPS)
    scores = {group: {task: [1.0, 0.0, 1.0] for task in group} for group in runs}
    found = arbitrate(GROUPS, scores, similar(GROUPS), GroupingConfig())
    assert found.outcome == "one_group" and found.gain is not None and found.gain.mean == 0


def test_a_gain_that_may_be_chance_gives_one_group():
    def rate(task: str, group: Composition) -> float:
        return {"a": 0.7, "d": 0.7, "b": 0.5}.get(task, 0.6) if len(group) == 3 else 0.6

    found = trial_of(rate, num_images=30)
    assert found.outcome == "one_group"
    assert found.gain is not None and found.gain.low < 0 < found.gain.mean


def test_a_harmed_task_leaves_where_similarity_foretells_nothing():
    def rate(task: str, group: Composition) -> float:
        if len(group) == 1:
            return 0.6
        if len(group) == 6:
            return 0.5
        return 0.4 if task == "c" else 0.75

    found = trial_of(rate)
    assert chosen(found) == sets("ab", "c", "def") and found.outcome == "changed" and found.num_rounds == 2
    (action,) = found.actions
    assert (action.kind, action.tasks, action.from_group) == ("left", ["c"], "g1")
    assert "c" in action.sentence and "points" in action.sentence


def test_a_harmed_task_moves_where_similarity_foretells_a_gain():
    tasks = [f"{family}{number}" for family in "pqr" for number in range(4)]
    groups = {"g1": [*tasks[:4], "r0"], "g2": tasks[4:8], "g3": tasks[9:]}
    similarity = {a: {b: 0.8 if a[0] == b[0] else -0.2 for b in tasks if b != a} for a in tasks}

    def rate(task: str, group: Composition) -> float:
        mates = [other for other in group if other != task]
        return 0.6 + 0.4 * fmean([similarity[task][other] for other in mates]) if mates else 0.6

    found = trial_of(rate, groups, similarity, num_images=800)
    assert found.power.is_predictive and "not predictive" not in found.power.sentence
    assert found.power.spearman is not None and found.power.spearman > 0.8
    assert [action.kind for action in found.actions] == ["moved"] and found.actions[0].to_group == "g3"
    assert sorted(found.groups["g3"]) == ["r0", "r1", "r2", "r3"] and found.num_rounds == 2


def test_a_useless_group_dissolves():
    def rate(task: str, group: Composition) -> float:
        if task in "abc":
            return 0.6 if len(group) == 1 else 0.4
        return {1: 0.6, 3: 0.75, 6: 0.4}[len(group)]

    found = trial_of(rate)
    assert chosen(found) == sets("a", "b", "c", "def")
    assert [(action.kind, action.from_group) for action in found.actions] == [("dissolved", "g1")]
    assert found.num_rounds == 1  # every task alone was tested in the first


def test_where_all_groups_lose_every_task_trains_alone():
    found = trial_of(lambda task, group: 0.7 if len(group) == 1 else 0.5)
    assert found.outcome == "all_alone" and len(found.groups) == 6


def test_affinity_that_is_not_predictive_is_said():
    rng = np.random.default_rng(0)
    tasks = [f"t{number}" for number in range(12)]
    groups = {f"g{n + 1}": tasks[4 * n : 4 * n + 4] for n in range(3)}
    similarity = {a: {b: float(rng.uniform(-1, 1)) for b in tasks if b != a} for a in tasks}
    shift = {task: float(rng.uniform(-0.15, 0.25)) for task in tasks}
    found = trial_of(lambda task, group: 0.6 + (shift[task] if len(group) > 1 else 0), groups, similarity)
    assert not found.power.is_predictive and "not predictive here" in found.power.sentence


def test_a_group_that_failed_is_out_of_consideration_with_its_reason():
    found = trial_of(families, failing=[frozenset("abc")])
    assert chosen(found) == sets("a", "b", "c", "def")
    (failed,) = [group for group in found.tested if group.failure]
    assert failed.tasks == ["a", "b", "c"] and failed.failure == "out of memory" and failed.over_alone is None


def test_without_a_test_of_one_group_nothing_is_said_against_the_groups():
    found = trial_of(families, failing=[frozenset(TASKS)])
    assert found.outcome == "kept" and found.gain is None and "could not be tested" in found.sentence


def test_a_change_that_does_no_good_is_undone():
    def rate(task: str, group: Composition) -> float:
        if group == frozenset("ab"):
            return 0.3  # c lost by them, but they cannot do without c
        if len(group) == 3:
            return 0.45 if task == "c" else 0.8
        return {1: 0.6, 6: 0.4}[len(group)]

    found = trial_of(rate)
    assert chosen(found) == sets("abc", "def") and found.outcome == "kept"
    assert [action.kind for action in found.actions] == ["left", "undone"]


def test_a_changed_group_whose_test_failed_is_not_chosen():
    def rate(task: str, group: Composition) -> float:
        return {1: 0.6, 2: 0.9, 3: 0.4 if task == "c" else 0.75, 6: 0.4}[len(group)]

    found = trial_of(rate, failing=[frozenset("ab")])
    assert frozenset("ab") not in chosen(found)
    assert chosen(found) == sets("abc", "def")


def test_linked_tasks_leave_together_and_pinned_groups_stay():
    def rate(task: str, group: Composition) -> float:
        if group == frozenset("bc"):
            return 0.7
        return {1: 0.6, 2: 0.6, 3: 0.75 if task in "adef" else 0.45, 6: 0.3}[len(group)]

    linked = trial_of(rate, config=GroupingConfig(arbitrate=True, must_link=[("b", "c")]))
    assert frozenset("bc") in chosen(linked) and linked.num_rounds == 2
    pinned = trial_of(rate, config=GroupingConfig(arbitrate=True, pinned=[["a", "b", "c"]]))
    assert frozenset("abc") in chosen(pinned)


def test_one_group_is_not_taken_where_a_cap_forbids_it():
    found = trial_of(lambda task, group: 0.7, config=GroupingConfig(arbitrate=True, max_group_size=3))
    assert found.outcome == "kept" and "forbid" in found.sentence


def test_a_plan_of_one_group_can_be_left_by_a_task_that_it_hurts():
    def rate(task: str, group: Composition) -> float:
        if len(group) == 1:
            return 0.6
        return 0.3 if task == "f" else 0.7

    found = trial_of(rate, {"g1": TASKS})
    assert chosen(found) == sets("abcde", "f") and found.outcome == "changed"


@pytest.mark.parametrize("alone", [True, False])
def test_a_plan_that_is_one_of_the_references_is_tested_once(alone: bool):
    groups = {f"g{n}": [task] for n, task in enumerate(TASKS)} if alone else {"g1": TASKS}
    assert len(first_round(groups)) == 7
    assert trial_of(families, groups).num_rounds == 1


@st.composite
def worlds(draw):
    num_tasks, seed = draw(st.integers(2, 6)), draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    tasks = [chr(ord("a") + n) for n in range(num_tasks)]
    labels = rng.integers(0, num_tasks, num_tasks)
    groups = {
        f"g{n + 1}": [t for t, own in zip(tasks, labels, strict=True) if own == label]
        for n, label in enumerate(sorted(set(labels)))
    }
    pairs = [(a, b) for a in tasks for b in tasks if a < b]
    apart = [pair for pair in pairs if not any(set(pair) <= set(g) for g in groups.values()) and rng.random() < 0.1]
    config = GroupingConfig(arbitrate=True, seed=seed % 3, cannot_link=apart)
    similarity = {a: {b: float(rng.uniform(-1, 1)) for b in tasks if b != a} for a in tasks}
    level = float(rng.choice([0.02, 0.15, 0.4]))

    def rate(task: str, group: Composition) -> float:
        own = np.random.default_rng([seed, ord(task), *map(ord, sorted(group))])
        return float(np.clip(0.6 + own.normal(0, level), 0, 1))

    return groups, rate, similarity, config


@settings(deadline=None, max_examples=30)
@given(worlds())
def test_whatever_was_measured_the_choice_is_a_tested_cover_within_limits_no_worse_than_one_group(world):
    groups, rate, similarity, config = world
    scores = scores_of(rate, first_round(groups), 40)
    scores |= scores_of(rate, second_round(groups, scores, similarity, config), 40)
    found = arbitrate(groups, scores, similarity, config)
    tasks = sorted(task for members in groups.values() for task in members)
    assert sorted(task for members in found.groups.values() for task in members) == tasks
    assert chosen(found) <= scores.keys()
    check_limits(found.groups, config, None)
    everything = frozenset(tasks)
    if not config.cannot_link:
        own = fmean(fmean(scores[frozenset(m)][t]) for m in found.groups.values() for t in m)
        assert own >= fmean(map(fmean, scores[everything].values())) - 1e-12
    again = arbitrate(dict(reversed(groups.items())), dict(reversed(scores.items())), similarity, config)
    assert chosen(again) == chosen(found)
