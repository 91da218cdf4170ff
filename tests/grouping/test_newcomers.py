"""Laws of placing newcomers: caps and pinned groups are kept, and noise places nobody."""

import numpy as np
import pytest

from grouping.config import GroupingConfig
from grouping.newcomers import Placement, place
from grouping.outline import VerdictKind
from tests.grouping.planted import planted

LABELS = np.array([0, 0, 0, 1, 1, 1, 0, 0, 1])
NAMES = [f"task{number}" for number in range(9)]
GROUPS = {"g1": NAMES[:3], "g2": NAMES[3:6]}


def placed(config: GroupingConfig, costs: dict[str, float] | None = None) -> dict[str, str]:
    job = planted(LABELS, sigma=0.3)
    found = place(job[:, :, :6], NAMES[:6], GROUPS, job[:, :, 6:], NAMES[6:], config, costs=costs)
    return {placement.task: placement.group for placement in found}


def test_newcomers_join_their_groups():
    assert placed(GroupingConfig()) == {"task6": "g1", "task7": "g1", "task8": "g2"}


def test_a_pinned_group_takes_nobody():
    found = placed(GroupingConfig(pinned=[GROUPS["g1"]]))
    assert found["task8"] == "g2"
    assert found["task6"] == found["task7"] == "g3"


def test_a_full_group_takes_nobody_and_new_groups_are_held_to_the_caps():
    sizes = placed(GroupingConfig(max_group_size=4))
    assert sorted(sizes.values()) == ["g1", "g2", "g3"]
    costs = dict.fromkeys(NAMES, 1.0) | {"task6": 2.0, "task7": 2.0}
    assert placed(GroupingConfig(max_group_cost=4.0), costs) == {"task6": "g3", "task7": "g3", "task8": "g2"}
    apart = placed(GroupingConfig(max_group_cost=3.0), costs)
    assert len(set(apart.values())) == 3 and set(apart.values()).isdisjoint(GROUPS)
    with pytest.raises(ValueError, match=r"max_group_cost=4, and no cost is known of .'task0'"):
        placed(GroupingConfig(max_group_cost=4.0))
    with pytest.raises(ValueError, match=r"no cost is known of .'task8'"):
        placed(GroupingConfig(max_group_cost=4.0), dict.fromkeys(NAMES[:8], 1.0))
    with pytest.raises(ValueError, match=r"max_group_cost=3, but .'task6'. alone cost .5.0."):
        placed(GroupingConfig(max_group_cost=3.0), costs | {"task6": 5.0})


def test_new_groups_have_the_same_ids_in_whatever_order_newcomers_arrive():
    job = planted(np.array([0, 0, 0, 1, 1, 1, 2, 3, 4]), sigma=0.3)
    found = []
    for order in ([6, 7, 8], [8, 6, 7], [7, 8, 6]):
        placements = place(
            job[:, :, :6], NAMES[:6], GROUPS, job[:, :, order], [NAMES[task] for task in order], GroupingConfig()
        )
        found.append({placement.task: placement.group for placement in placements})
    assert found[0] == found[1] == found[2]


def test_a_group_that_takes_nobody_is_named_with_the_reason():
    job, costs = planted(LABELS, sigma=0.3), dict.fromkeys(NAMES, 1.0)
    for config, why in (
        (GroupingConfig(pinned=[GROUPS["g1"]]), "g1 (similarity 0."),
        (GroupingConfig(pinned=[GROUPS["g1"]]), "which is pinned"),
        (GroupingConfig(max_group_size=3), "which is full: max_group_size=3"),
        (GroupingConfig(max_group_cost=3.0), "which is full: max_group_cost=3"),
    ):
        for verdict in ("groups", "too_noisy"):
            groups = GROUPS if verdict == "groups" else {"g1": GROUPS["g1"]}
            known = [task for tasks in groups.values() for task in tasks]
            told = place(job[:, :, : len(known)], known, groups, job[:, :, 6:7], ["task6"], config, costs=costs)[0]
            assert told.is_new and why in told.sentence and "takes" not in told.sentence


def noise(seed: int, num_tasks: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((5, 2, num_tasks, 200))


def in_one_group(known: np.ndarray, new: np.ndarray, verdict: VerdictKind) -> Placement:
    return place(known, NAMES[:4], {"g1": NAMES[:4]}, new, ["late"], GroupingConfig(), verdict=verdict)[0]


@pytest.mark.parametrize("verdict", ["too_noisy", "one_group"])
def test_where_no_groups_can_be_told_apart_a_newcomer_joins_the_one_there_is_unless_it_opposes_it(verdict):
    found = [in_one_group(noise(seed, 4), noise(100 + seed, 1), verdict) for seed in range(20)]
    joined = [placed for placed in found if placed.group == "g1"]
    assert len(joined) >= 19
    assert all("the gradients tell no groups apart" in placed.sentence for placed in joined)
    job = planted(np.zeros(5, dtype=int), sigma=0.3)
    opposed = in_one_group(job[:, :, :4], -job[:, :, 4:], verdict)
    assert opposed.is_new and "late starts g2: it opposes the one known group, g1" in opposed.sentence


def test_newcomers_of_noise_neither_join_a_group_nor_share_one():
    joined, shared, noisy = [], [], []
    for seed in range(20):
        known = planted(LABELS[:6], sigma=1, seed=seed)
        found = place(known, NAMES[:6], GROUPS, noise(seed, 2), NAMES[6:8], GroupingConfig())
        joined += [not placed.is_new for placed in found]
        shared.append(found[0].is_new and found[0].group == found[1].group)
        noisy += ["noisy, it agrees with itself by" in placed.sentence for placed in found]
    assert np.mean(joined) <= 0.1 and np.mean(shared) <= 0.1 and np.mean(noisy) >= 0.8


def test_no_newcomer_joins_a_group_that_is_itself_noise():
    found = [
        place(noise(seed, 1), ["a"], {"g1": ["a"]}, noise(50 + seed, 1), ["b"], GroupingConfig(), verdict="groups")[0]
        for seed in range(20)
    ]
    assert sum(placed.is_new for placed in found) >= 18


def test_newcomers_that_are_surely_alike_share_a_new_group():
    job = planted(np.array([0, 0, 0, 1, 1, 1, 2, 2]), sigma=0.5)
    first, second = place(job[:, :, :6], NAMES[:6], GROUPS, job[:, :, 6:], NAMES[6:8], GroupingConfig())
    assert first.group == second.group == "g3" and "noisy" not in first.sentence


def test_the_standard_error_is_the_spread_of_repeated_measurements():
    true, rng = planted(LABELS[:7]), np.random.default_rng(0)
    found = []
    for _ in range(60):
        job = true + rng.standard_normal(true.shape) * np.sqrt(2 / 200)
        found.append(place(job[:, :, :6], NAMES[:6], GROUPS, job[:, :, 6:], NAMES[6:7], GroupingConfig())[0])
    spread = np.std([placed.similarity for placed in found])
    assert 0.5 <= np.mean([placed.standard_error for placed in found]) / spread <= 2.0
    assert 0.5 <= np.mean([placed.reliability for placed in found]) <= 0.7
