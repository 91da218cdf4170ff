"""The arithmetic of a gain table, on small made-up tables, against brute force."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import spearmanr

from bench.gain_report import Measured, figures_of
from bench.subset_gains import (
    best,
    gains,
    higher_order,
    pair_gains,
    partitions,
    predictive,
    regret,
    shared,
    subsets,
    worths,
)

TASKS = ("a", "b", "c", "d")


def scores(seed: int) -> dict[tuple[str, ...], dict[str, float]]:
    rng = np.random.default_rng(seed)
    return {members: {task: float(rng.normal()) for task in members} for members in subsets(TASKS)}


def pairs(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(len(TASKS), len(TASKS)))
    np.fill_diagonal(values, 0.0)
    return values


@pytest.mark.parametrize(("count", "bell"), [(1, 1), (2, 2), (3, 5), (4, 15), (5, 52)])
def test_every_partition_is_listed_once_from_one_group_to_all_alone(count, bell):
    tasks = tuple("abcde"[:count])
    found = partitions(tasks)
    assert len(found) == len({frozenset(map(frozenset, groups)) for groups in found}) == bell
    assert all(sorted(task for group in groups for task in group) == list(tasks) for groups in found)
    assert all(list(group) == sorted(group) and group in subsets(tasks) for groups in found for group in groups)
    assert found[0] == (tasks,)
    assert found[-1] == tuple((task,) for task in tasks)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_partition_is_that_of_brute_force(seed):
    table = scores(seed)
    by_hand = {}
    for labels in product(range(len(TASKS)), repeat=len(TASKS)):
        groups = [tuple(t for t, label in zip(TASKS, labels, strict=True) if label == g) for g in set(labels)]
        gained = [table[group][task] - table[task,][task] for group in groups for task in group]
        by_hand[frozenset(groups)] = sum(gained) / len(TASKS)
    values = worths(gains(table))
    assert {frozenset(groups): value for groups, value in values.items()} == pytest.approx(by_hand)
    assert values[best(values)] == pytest.approx(max(by_hand.values()))
    assert regret(values[best(values)], values) == (0.0, 0.0)
    assert regret(float(np.mean([*values.values()])), values)[1] == pytest.approx(1.0)


def test_training_alone_gains_nothing():
    gained = gains(scores(0))
    assert all(gained[task,][task] == 0.0 for task in TASKS)
    assert worths(gained)[tuple((task,) for task in TASKS)] == 0.0


def test_gains_that_are_means_of_pairs_are_foretold_from_their_pairs():
    pairs_TT = pairs(1)
    gained = higher_order(pairs_TT, TASKS)
    assert pair_gains(gained) == pytest.approx(pairs_TT)
    for members in subsets(TASKS):
        couples = [np.mean(list(gained[couple].values())) for couple in combinations(members, 2)]
        assert np.mean(list(gained[members].values())) == pytest.approx(np.mean(couples or [0.0]))
    for sizes in ((2,), (3, 4)):
        told = predictive(pairs_TT, gained, sizes)
        assert told is not None
        assert told.spearman == pytest.approx(1.0)
        assert told.p_value == 1 / 24
        assert told.words == "predictive"


def test_a_symmetric_affinity_is_ranked_over_unordered_pairs():
    gained = gains(scores(2))
    affinity_TT = pairs(3) + pairs(3).T
    told = predictive(affinity_TT, shared(gained), (2,))
    rows, columns = np.triu_indices(len(TASKS), k=1)
    mutual_TT = pair_gains(gained) + pair_gains(gained).T
    expected, _ = spearmanr(affinity_TT[rows, columns], mutual_TT[rows, columns])
    assert told is not None
    assert told.spearman == pytest.approx(expected)


def test_an_affinity_that_says_the_same_of_all_foretells_nothing():
    assert predictive(np.ones((4, 4)), gains(scores(0)), (2,)) is None


def test_choosing_the_best_has_no_regret_and_the_reverse_of_the_truth_misleads():
    seeds = []
    for seed in (1, 2):
        table = higher_order(pairs(0) + seed * 1e-6, TASKS)
        values = worths(table)
        choices = {"best": [best(values)], "any": partitions(TASKS)}
        affinities = {"truth": pair_gains(table), "reverse": -pair_gains(table), "silent": np.zeros((4, 4))}
        seeds.append(Measured(seed, table, table, table, choices, affinities, "groups"))
    figures = figures_of(seeds)
    assert figures["selectors"]["best"]["regret"] == [0.0, 0.0]
    assert figures["selectors"]["any"]["relative_regret"] == [1.0, 1.0]
    words = {name: row["pairs"]["words"] for name, row in figures["predictions"].items()}
    assert words == {"truth": "predictive", "reverse": "misleading", "silent": "says the same of all"}
    assert figures["spearman_of_partitions"]["between_seeds"] == pytest.approx(1.0)
