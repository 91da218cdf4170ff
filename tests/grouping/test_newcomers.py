"""Laws of placing newcomers that hold whatever the threshold is: caps and pinned groups are kept."""

import numpy as np
import pytest

from grouping.config import GroupingConfig
from grouping.newcomers import place
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
    with pytest.raises(ValueError, match="max_group_cost=4, and no task's cost is known"):
        placed(GroupingConfig(max_group_cost=4.0))
