"""Laws of the similarity, and its accuracy on planted gradients."""

import numpy as np
import pytest

from grouping.grams import unusable_tasks
from grouping.similarity import cross_fit, mean_cosine
from tests.grouping.planted import planted


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.triu_indices(len(matrix), k=1)]


def test_identical_gradients_have_similarity_one():
    gradients = planted([0, 1], sigma=1)
    gradients[:, :, 1] = gradients[:, :, 0]
    for measured in (cross_fit(gradients), mean_cosine(gradients)):
        np.testing.assert_allclose(measured.similarity_TT, 1.0, atol=1e-12)


def test_opposite_gradients_have_similarity_minus_one():
    gradients = planted([0, 1], sigma=1)
    gradients[:, :, 1] = -gradients[:, :, 0]
    np.testing.assert_allclose(off_diagonal(cross_fit(gradients).similarity_TT), -1.0, atol=1e-12)


def test_cross_fit_equals_its_definition_with_two_microbatches():
    gradients = planted([0, 0, 1], sigma=1, num_snapshots=3)
    numerator = np.zeros((3, 3))
    for a, b in gradients:
        unit = np.sqrt(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        a, b = a / unit[:, None], b / unit[:, None]
        numerator += (a @ b.T + b @ a.T) / 2 / 3
    reliability = np.diagonal(numerator)
    measured = cross_fit(gradients)
    np.testing.assert_allclose(measured.numerator_TT, numerator)
    expected = np.clip(numerator / np.sqrt(np.outer(reliability, reliability)), -1, 1)
    np.testing.assert_allclose(measured.similarity_TT, expected)


def test_more_microbatches_use_every_split_into_halves():
    gradients = planted([0, 0, 1], sigma=1, num_snapshots=2, num_microbatches=4)
    splits = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    halves = [np.stack([gradients[:, list(half)].mean(axis=1) for half in split], axis=1) for split in splits]
    expected = np.mean([cross_fit(pair).numerator_TT for pair in halves], axis=0)
    np.testing.assert_allclose(cross_fit(gradients).numerator_TT, expected)


@pytest.mark.parametrize("num_microbatches", [2, 3, 4, 8, 11])
def test_any_number_of_microbatches_gives_the_true_cosine(num_microbatches: int):
    values = [
        off_diagonal(cross_fit(planted([0, 0], sigma=1, num_microbatches=num_microbatches, seed=seed)).similarity_TT)
        for seed in range(10)
    ]
    assert abs(np.mean(values) - 0.5) < 0.05


@pytest.mark.parametrize(("sigma", "raw_attenuated_to"), [(1.0, 0.33), (5.0, 0.04)])
def test_cross_fit_undoes_the_attenuation_by_noise(sigma: float, raw_attenuated_to: float):
    """T24: two tasks of true cosine .5."""
    jobs = [planted([0, 0], sigma=sigma, seed=seed) for seed in range(100)]
    raw = np.mean([off_diagonal(mean_cosine(job).similarity_TT) for job in jobs])
    corrected = np.mean([off_diagonal(cross_fit(job).similarity_TT) for job in jobs])
    assert abs(raw - raw_attenuated_to) < 0.03
    assert abs(corrected - 0.5) < 0.1


def test_noise_shared_through_the_data_makes_cosines_but_not_cross_fitted_similarities():
    one_source = np.zeros(12, dtype=int)
    jobs = [planted(np.arange(12), sigma=1.5, shared_noise=0.9, sources=one_source, seed=seed) for seed in range(20)]
    assert np.mean([off_diagonal(mean_cosine(job).similarity_TT) for job in jobs]) > 0.4
    assert abs(np.mean([off_diagonal(cross_fit(job).similarity_TT) for job in jobs])) < 0.1


@pytest.mark.parametrize(("num_snapshots", "num_microbatches"), [(5, 2), (5, 4), (2, 4)])
def test_standard_errors_match_the_spread_over_repetitions(num_snapshots: int, num_microbatches: int):
    jobs = [
        planted([0, 0, 1], sigma=1.5, num_snapshots=num_snapshots, num_microbatches=num_microbatches, seed=seed)
        for seed in range(60)
    ]
    repeated = [cross_fit(job) for job in jobs]
    spread = np.std([off_diagonal(measured.similarity_TT) for measured in repeated], axis=0).mean()
    errors = [measured.standard_error_TT for measured in repeated]
    assert all(error is not None for error in errors)
    said = np.mean([off_diagonal(error) for error in errors if error is not None])
    assert 0.7 < said / spread < 1.6


def test_a_single_snapshot_of_two_halves_has_no_standard_error():
    assert cross_fit(planted([0, 0], num_snapshots=1)).standard_error_TT is None


def test_huge_and_tiny_gradients_neither_overflow_nor_vanish():
    gradients = planted([0, 0, 1], sigma=1)
    scaled = gradients * np.array([1e200, 1e-200, 1.0])[:, None]
    np.testing.assert_allclose(cross_fit(scaled).similarity_TT, cross_fit(gradients).similarity_TT, rtol=1e-9)


def test_float32_gives_the_float64_similarity():
    gradients = planted([0, 0, 1, 1], sigma=1, num_params=9000)
    single = cross_fit(gradients.astype(np.float32)).similarity_TT
    np.testing.assert_allclose(single, cross_fit(gradients).similarity_TT, atol=1e-6)


def test_zero_nan_and_infinite_gradients_are_named():
    gradients = planted(range(4), num_snapshots=2)
    gradients[1, 0, 1] = 0.0
    gradients[0, 0, 2, 5] = np.nan
    gradients[:, :, 3, 7] = np.inf
    assert unusable_tasks(gradients) == {
        1: "its gradient is zero in 1 of 4 measurements",
        2: "its gradient is not finite in 1 of 4 measurements",
        3: "its gradient is not finite in 4 of 4 measurements",
    }
