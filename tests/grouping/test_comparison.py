"""Two plans of one job side by side."""

import numpy as np
import pytest

from grouping.comparison import Comparison, compare
from grouping.config import GroupingConfig
from grouping.given import plan_of_groups
from grouping.measurement import measure
from grouping.plan import Plan, plan_from, trivial_plan
from tests.grouping.planted import planted

NAMES = ["art", "clipart", "sketch", "mnist", "svhn", "usps"]
MEASUREMENT = measure(planted(np.arange(6) // 3, sigma=0.5), NAMES)
TRUE = {"g1": NAMES[:3], "g2": NAMES[3:]}


def given(groups: dict[str, list[str]], **config) -> Plan:
    return plan_of_groups(MEASUREMENT, groups, GroupingConfig(**config), origin="edited", summary="Mine.")


def test_a_plan_compared_with_itself_moves_nobody():
    plan = plan_from(MEASUREMENT, GroupingConfig())
    same = compare(MEASUREMENT, plan, plan)
    assert (same.rand_index, same.moved, same.sentence) == (1.0, [], "Both plans have the same groups.")
    assert same.first_objective == same.second_objective == plan.objective["chosen"]


def test_other_ids_alone_move_nobody():
    assert compare(MEASUREMENT, given(TRUE), given({"g2": NAMES[:3], "g9": NAMES[3:]})).moved == []


def test_a_move_tells_the_partners_gained_and_lost():
    first, second = given(TRUE), given({"g1": ["art", "clipart"], "g2": [*NAMES[3:], "sketch"]})
    found = compare(MEASUREMENT, first, second)
    (move,) = found.moved
    assert (move.task, move.first_group, move.second_group) == ("sketch", "g1", "g2")
    assert (move.gained, move.lost) == (["mnist", "svhn", "usps"], ["art", "clipart"])
    assert 0 < found.rand_index < 1
    assert found.first_objective == first.objective["chosen"]
    assert found.second_objective == pytest.approx(second.objective["chosen"])
    assert found.sentence.startswith("1 of 6 tasks moves: sketch (from g1 to g2); adjusted Rand index ")
    assert "By the first plan's objective the second is worth" in found.sentence
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_a_group_that_splits_keeps_its_larger_half_in_place():
    found = compare(MEASUREMENT, given(TRUE), given({"g1": ["art", "clipart"], "g3": ["sketch"], "g2": NAMES[3:]}))
    assert [(move.task, move.second_group, move.gained) for move in found.moved] == [("sketch", "g3", [])]


def test_groups_that_are_joined_move_the_smaller_one():
    found = compare(MEASUREMENT, given({"g1": NAMES[:4], "g2": NAMES[4:]}), given({"g1": NAMES}))
    assert [move.task for move in found.moved] == ["svhn", "usps"]
    assert found.rand_index == 0.0


def test_both_are_valued_under_the_settings_of_the_first():
    by_cosine = given(TRUE, similarity="cosine")
    found = compare(MEASUREMENT, by_cosine, given({"g1": NAMES}))
    assert found.first_objective == by_cosine.objective["chosen"]
    assert found.second_objective == pytest.approx(given({"g1": NAMES}, similarity="cosine").objective["chosen"])


def test_more_moves_than_can_be_named_are_counted():
    names = [f"task{index:02d}" for index in range(20)]
    measurement = measure(planted(np.arange(20) // 10, sigma=0.5), names)
    one, alone = (trivial_plan(names, origin) for origin in ("all", "alone"))
    assert "19 of 20 tasks move: task01 (from g1 to g2), " in compare(measurement, one, alone).sentence
    assert " and 14 more; adjusted" in compare(measurement, one, alone).sentence


def test_without_any_usable_gradient_only_the_groups_are_compared():
    measurement = measure(np.zeros((2, 2, 6, 5)), NAMES)
    first = plan_from(measurement, GroupingConfig())
    found = compare(measurement, first, trivial_plan(NAMES, "all"))
    assert (found.first_objective, found.second_objective) == (None, None)
    assert len(found.moved) == 5


def test_plans_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match="The second plan is of the tasks a, b, and measured were art, "):
        compare(MEASUREMENT, given(TRUE), trivial_plan(["a", "b"], "all"))
