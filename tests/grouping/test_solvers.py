"""The exact program against brute force, local search against the exact program, and every limit kept."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from grouping.exact import best_partition, exact_partition
from grouping.links import Limits
from grouping.local import local_partition
from grouping.paper import mean_score, paper_partition
from grouping.partition import pair_sum, respects
from grouping.spectral import spectral_labels
from tests.grouping.planted import partitions, planted_weights, random_weights


def limits(count: int, **settings) -> Limits:
    return Limits(np.ones(count), **settings)


def test_brute_force_counts_bell_numbers():
    assert [sum(1 for _ in partitions(count)) for count in (1, 4, 9)] == [1, 15, 21_147]


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_exact_program_equals_brute_force(count: int):
    """T12; nine tasks below, with every number of groups."""
    for seed in range(3):
        weights = random_weights(count, seed)
        best = max(pair_sum(weights, labels) for labels in partitions(count))
        exact = exact_partition(weights, limits(count))
        assert exact is not None
        assert exact.objective == pytest.approx(best)
        assert exact.gap == 0.0


def test_exact_program_equals_brute_force_for_every_fixed_number_of_groups():
    """T12 at nine tasks: Bell(9) = 21,147 partitions."""
    weights = random_weights(9, 0)
    best: dict[int, float] = {}
    for labels in partitions(9):
        groups = int(labels.max()) + 1
        best[groups] = max(best.get(groups, -np.inf), pair_sum(weights, labels))
    free = exact_partition(weights, limits(9))
    assert free is not None
    assert free.objective == pytest.approx(max(best.values()))
    for groups in range(1, 10):
        program = exact_partition(weights, limits(9, num_groups=groups))
        by_subsets = best_partition(weights, limits(9, num_groups=groups), seed=0)
        assert program is not None
        assert program.objective == pytest.approx(best[groups])
        assert by_subsets.objective == pytest.approx(best[groups])
        assert int(by_subsets.labels.max()) + 1 == groups


def test_exact_program_with_limits_equals_brute_force_within_them():
    apart = np.zeros((7, 7), dtype=bool)
    apart[0, 1] = apart[1, 0] = apart[2, 5] = apart[5, 2] = True
    for seed in range(3):
        weights = random_weights(7, seed) + 0.5
        given = Limits(np.array([1.0, 2, 1, 1, 3, 1, 1]), max_cost=4.0, apart_UU=apart)
        best = max(pair_sum(weights, labels) for labels in partitions(7) if respects(labels, given))
        exact = exact_partition(weights, given)
        assert exact is not None
        assert exact.objective == pytest.approx(best)
        for groups in (3, 5):
            fixed = replace(given, num_groups=groups)
            best = max(pair_sum(weights, labels) for labels in partitions(7) if respects(labels, fixed))
            assert best_partition(weights, fixed, seed=0).objective == pytest.approx(best)


def test_local_search_comes_close_to_the_proven_optimum():
    """T11: ten instances of 10 to 40 tasks; gap at most 10 %, median 0."""
    gaps = []
    for seed, count in enumerate([10, 12, 15, 18, 20, 20, 25, 30, 35, 40]):
        weights = planted_weights(count, 4, 2.0 if count > 20 else 3.0, seed)
        exact = exact_partition(weights, limits(count), time_limit=20.0)
        assert exact is not None
        assert exact.gap == 0.0
        local = local_partition(weights, limits(count), seed=0)
        gaps.append((exact.objective - local.objective) / exact.objective)
    assert min(gaps) > -1e-9
    assert max(gaps) <= 0.10
    assert np.median(gaps) < 1e-9


def test_size_cap_splits_planted_groups():
    """T13: four groups of five, at most three together."""
    weights = planted_weights(20, 4, 1.0, 0)
    capped = exact_partition(weights, limits(20, max_cost=3.0))
    free = exact_partition(weights, limits(20))
    assert capped is not None
    assert free is not None
    assert capped.gap == 0.0
    assert np.bincount(capped.labels).max() <= 3
    assert len(capped.labels) == 20
    assert capped.objective < free.objective
    assert adjusted_rand_score(free.labels, np.arange(20) % 4) == 1.0


def test_cost_cap_holds_for_every_group():
    """T13: costs 1 to 5, at most 12 a group."""
    costs = np.random.default_rng(0).integers(1, 6, size=20).astype(float)
    found = exact_partition(planted_weights(20, 4, 1.0, 0), Limits(costs, max_cost=12.0))
    assert found is not None
    assert found.gap == 0.0
    assert np.bincount(found.labels, weights=costs).max() <= 12


def test_a_single_cost_above_the_cap_is_refused():
    with pytest.raises(ValueError, match=r"Unit 1 costs 13, and a group may cost 12 in all\. Raise the limit"):
        exact_partition(random_weights(3, 0), Limits(np.array([1.0, 13.0, 1.0]), max_cost=12.0))


@pytest.mark.parametrize("num_groups", [None, 12, 20])
def test_local_search_keeps_every_limit_on_large_jobs(num_groups: int | None):
    apart = np.zeros((60, 60), dtype=bool)
    apart[0, 6] = apart[6, 0] = apart[1, 7] = apart[7, 1] = True
    given = limits(60, max_cost=5.0, apart_UU=apart, num_groups=num_groups)
    found = best_partition(planted_weights(60, 6, 1.0, 0), given, seed=0)
    assert found.solver == "local search"
    assert respects(found.labels, given)
    assert found.objective > 0


@pytest.mark.parametrize("count", [5, 45])
def test_limits_that_contradict_each_other_are_refused(count: int):
    apart = ~np.eye(count, dtype=bool)
    with pytest.raises(ValueError, match="Allow more groups or larger ones, or drop some"):
        best_partition(random_weights(count, 0), limits(count, apart_UU=apart, num_groups=2), seed=0)


@pytest.mark.parametrize("num_groups", [None, 1, 3])
def test_paper_rule_equals_brute_force(num_groups: int | None):
    for seed in range(3):
        similarity = np.clip(random_weights(6, seed) / 2, -1, 1)
        np.fill_diagonal(similarity, 1.0)
        found = paper_partition(similarity, [[task] for task in range(6)], limits(6, num_groups=num_groups))
        scores = [
            mean_score(similarity, labels) for labels in partitions(6) if num_groups in (None, int(labels.max()) + 1)
        ]
        assert found.objective == pytest.approx(max(scores))
        assert mean_score(similarity, found.labels) == pytest.approx(found.objective)


def test_paper_rule_leaves_tasks_alone_that_all_disagree():
    similarity = np.full((5, 5), -0.2)
    np.fill_diagonal(similarity, 1.0)
    assert len(set(paper_partition(similarity, [[t] for t in range(5)], limits(5)).labels)) == 5


@pytest.mark.parametrize("count", [5, 16])
def test_paper_rule_joins_the_one_pair_that_agrees(count: int):
    similarity = np.full((count, count), -0.2)
    np.fill_diagonal(similarity, 1.0)
    similarity[1, 3] = similarity[3, 1] = 0.6
    labels = paper_partition(similarity, [[t] for t in range(count)], limits(count)).labels
    assert labels[1] == labels[3]
    assert len(set(labels)) == count - 1


def test_spectral_says_when_rows_coincide():
    assert spectral_labels(np.ones((4, 4)), 2, seed=0) is None
