"""Laws of packing: every group exactly once, longest first, and no worse than the bound."""

import math

import numpy as np
import pytest

from workers.launching.packing import Parcel, longest_first, pack


def loads(costs: list[float], num_bins: int) -> list[list[float]]:
    return longest_first(costs, num_bins=num_bins, cost=float)


def test_five_jobs_on_two_and_three_workers_are_split_as_lpt_splits_them():
    assert loads([4, 5, 6, 7, 8], 2) == [[8, 5, 4], [7, 6]]
    assert loads([4, 5, 6, 7, 8], 3) == [[8], [7, 4], [6, 5]]


def test_the_worst_case_of_lpt_meets_its_bound_exactly():
    makespan = max(sum(members) for members in loads([7, 7, 6, 6, 5, 5, 4, 4, 4], 4))
    assert makespan == 15
    assert makespan <= 12 * (4 / 3 - 1 / (3 * 4))
    assert max(sum(members) for members in loads([3, 3, 2, 2, 2], 2)) == 7


def test_log_normal_costs_are_balanced_within_two_percent_on_average():
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(50):
        costs = rng.lognormal(0, 1, size=40).tolist()
        bound = max(max(costs), sum(costs) / 8)
        ratios.append(max(sum(members) for members in loads(costs, 8)) / bound)
    assert np.mean(ratios) <= 1.02


@pytest.mark.parametrize("cap", [None, 1, 40, 100])
@pytest.mark.parametrize("num_workers", [1, 2, 5, 30])
def test_every_group_is_packed_exactly_once(num_workers: int, cap: int | None):
    units = [Parcel(f"g{i}", cost=float(i % 5), images_per_step=16 * (1 + i % 3)) for i in range(14)]
    passes = pack(units, num_workers, cap)
    assert sorted(unit.name for members in passes for unit in members) == sorted(unit.name for unit in units)
    assert all(passes)


def test_without_a_cap_there_are_no_more_passes_than_workers():
    units = [Parcel(f"g{i}", cost=1.0, images_per_step=64) for i in range(14)]
    assert [len(members) for members in pack(units, 2)] == [7, 7]


def test_a_pass_never_exceeds_the_cap_unless_one_group_alone_does():
    units = [Parcel("wide", 9.0, 300), *(Parcel(f"g{i}", 3.0, 48) for i in range(9))]
    passes = pack(units, 2, 100)
    assert all(sum(u.images_per_step for u in members) <= 100 for members in passes if members[0].name != "wide")
    assert [unit.name for unit in next(members for members in passes if members[0].name == "wide")] == ["wide"]


def test_a_pass_is_split_where_it_does_not_fit_and_a_group_that_never_fits_runs_alone():
    units = [Parcel("wide", 9.0, 300), *(Parcel(f"g{i}", 3.0, 48) for i in range(9))]
    passes = pack(units, 1, None, lambda members: sum(unit.images_per_step for unit in members) <= 100)
    assert sorted(len(members) for members in passes) == [1, 1, 2, 2, 2, 2]
    assert ["wide"] in [[unit.name for unit in members] for members in passes]


def test_the_costliest_pass_comes_first():
    costs = [sum(u.cost for u in m) for m in pack([Parcel(str(c), c, 10) for c in (1.0, 8.0, 3.0, 5.0)], 2, 10)]
    assert costs == sorted(costs, reverse=True)
    assert math.isclose(sum(costs), 17.0)


@pytest.mark.parametrize(("num_workers", "cap"), [(0, None), (2, 0)])
def test_impossible_packings_are_refused(num_workers: int, cap: int | None):
    with pytest.raises(ValueError, match="at least"):
        pack([Parcel("g1", 1.0)], num_workers, cap)
