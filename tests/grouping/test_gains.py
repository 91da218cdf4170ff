"""Gains: the paired bootstrap of per-image scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grouping.gains import paired_gain, task_gains


def _hits(rate: float, num: int, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(num) < rate).astype(float).tolist()


def test_equal_scores_gain_nothing_for_sure():
    gain = paired_gain({"a": [1, 0, 1]}, {"a": [1, 0, 1]})
    assert (gain.mean, gain.low, gain.high) == (0, 0, 0)
    assert not gain.is_gain and not gain.is_harm


def test_a_large_difference_on_many_images_is_believed():
    gain = paired_gain({"a": [1] * 90 + [0] * 10}, {"a": [1] * 60 + [0] * 40})
    assert gain.is_gain and gain.mean == pytest.approx(0.3) and gain.num_images == 100


@pytest.mark.parametrize("num", [1, 2, 4])
def test_a_handful_of_images_proves_nothing(num: int):
    gain = paired_gain({"a": [0.0] * num}, {"a": [1.0] * num})
    assert gain.mean == -1 and gain.low == -1 and not gain.is_harm


def test_as_many_one_sided_images_are_needed_as_the_sign_test_needs():
    def gain(better: int):
        return paired_gain({"a": [1] * 50}, {"a": [0] * better + [1] * (50 - better)}, resamples=20_000)

    assert not gain(4).is_gain  # two-sided sign test: p = 0.125
    assert gain(8).is_gain  # p = 0.008


def test_every_task_counts_the_same_however_many_images_it_has():
    gain = paired_gain({"small": [1] * 10, "large": [0] * 1000}, {"small": [0] * 10, "large": [0] * 1000})
    assert gain.mean == pytest.approx(0.5) and gain.num_tasks == 2 and gain.num_images == 1010


def test_pairing_makes_the_interval_narrow():
    hits = _hits(0.7, 400, seed=1)
    better = [1.0] * 20 + hits[20:]
    paired = paired_gain({"a": better}, {"a": hits})
    shuffled = paired_gain({"a": better}, {"a": np.random.default_rng(2).permutation(hits).tolist()})
    assert paired.high - paired.low < 0.6 * (shuffled.high - shuffled.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = sum(
        (gain := paired_gain({"a": _hits(0.8, 60, s)}, {"a": _hits(0.7, 60, 1000 + s)}, seed=s)).low <= 0.1 <= gain.high
        for s in range(300)
    )
    assert 0.92 <= covered / 300 <= 0.99


def test_many_small_tasks_are_believed_together_and_not_one_by_one():
    own = {f"t{i}": _hits(0.85, 20, i) for i in range(40)}
    other = {f"t{i}": _hits(0.65, 20, 100 + i) for i in range(40)}
    assert paired_gain(own, other).is_gain
    assert sum(gain.is_gain for gain in task_gains(own, other).values()) < 20


def test_different_tasks_or_images_are_refused():
    with pytest.raises(ValueError, match="Give the same"):
        paired_gain({"a": [1]}, {"b": [1]})
    with pytest.raises(ValueError, match="'a': 2 and 1 scores"):
        paired_gain({"a": [1, 0]}, {"a": [1]})
    with pytest.raises(ValueError, match="no number"):
        paired_gain({"a": [float("nan")]}, {"a": [1]})


SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20)


@settings(deadline=None, max_examples=50)
@given(st.lists(SCORES, min_size=1, max_size=4))
def test_gain_is_antisymmetric_in_its_mean_contained_and_does_not_depend_on_the_order_of_tasks(tasks):
    own = {f"t{i}": [a for a, _ in pairs] for i, pairs in enumerate(tasks)}
    other = {f"t{i}": [b for _, b in pairs] for i, pairs in enumerate(tasks)}
    gain = paired_gain(own, other, resamples=200)
    assert gain.low <= gain.mean <= gain.high
    assert paired_gain(other, own, resamples=200).mean == pytest.approx(-gain.mean)
    turned = paired_gain(dict(reversed(own.items())), other, resamples=200)
    assert turned == gain
