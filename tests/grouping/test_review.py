"""A review says how firm a plan is and what others would have done."""

import numpy as np
import pytest

from grouping.config import GroupingConfig
from grouping.given import plan_of_groups
from grouping.measurement import measure
from grouping.plan import Plan, plan_from, trivial_plan
from grouping.review import Review, review
from tests.grouping.planted import planted

THREE_GROUPS = np.arange(12) % 3
NAMES = [f"task{index:02d}" for index in range(12)]
TRUE = {f"g{k + 1}": NAMES[k::3] for k in range(3)}
WRONG = {f"g{k + 1}": NAMES[4 * k : 4 * k + 4] for k in range(3)}


def job(sigma: float, **config):
    """Gradients, their measurement, and the plan without a second opinion."""
    gradients = planted(THREE_GROUPS, sigma=sigma, num_microbatches=4)
    measurement = measure(gradients, NAMES)
    return gradients, measurement, plan_from(measurement, GroupingConfig(**config), second_opinion=False)


def test_a_plan_that_resampled_data_give_again_is_firm_and_the_exact_program_agrees():
    gradients, measurement, plan = job(1.0)
    found = review(gradients, measurement, plan, resamples=8)
    assert found.confidence is not None and found.confidence.word == "firm"
    assert {task.task: task.margin > 0.9 for task in found.confidence.tasks} == dict.fromkeys(NAMES, True)
    assert found.second_opinion is not None
    assert (found.second_opinion.solver, found.second_opinion.agreement) == ("exact", 1.0)
    assert {(row.first, row.second) for row in found.agreements} == {
        ("cross_fit", "cosine"),
        ("cross_fit", "random"),
        ("cosine", "random"),
    }
    assert Review.model_validate_json(found.model_dump_json()) == found


def test_the_second_opinion_is_the_one_that_the_plan_would_have_had():
    gradients, measurement, plan = job(1.0)
    asked = plan_from(measurement, GroupingConfig())
    assert asked.second_opinion is not None
    assert review(gradients, measurement, plan, resamples=2).second_opinion == asked.second_opinion
    assert review(gradients, measurement, asked, resamples=2).second_opinion == asked.second_opinion


@pytest.mark.parametrize(("groups", "agreement"), [(TRUE, 1.0), (WRONG, 0.0)])
def test_given_groups_hear_what_the_solver_would_have_chosen(groups: dict[str, list[str]], agreement: float):
    gradients, measurement, found = job(1.0)
    plan = plan_of_groups(measurement, groups, GroupingConfig(), origin="edited", summary="Mine.")
    seen = review(gradients, measurement, plan, resamples=8)
    assert seen.second_opinion is not None and seen.confidence is not None
    assert seen.second_opinion.solver == "spectral"
    assert seen.second_opinion.groups == sorted(group.tasks for group in found.groups)
    assert seen.second_opinion.agreement == pytest.approx(agreement, abs=0.2)
    assert seen.second_opinion.objective >= plan.objective["chosen"]
    # Resampled data know nothing of what was given: they tell a task in the wrong group.
    assert (min(task.margin for task in seen.confidence.tasks) < 0) == (agreement == 0.0)


def test_given_groups_hear_the_solver_under_the_same_limits():
    gradients, measurement, _ = job(1.0)
    config = GroupingConfig(max_group_cost=4.0, must_link=[(NAMES[0], NAMES[1])], max_group_size=4)
    groups = {"g1": NAMES[:2], "g2": NAMES[2:6], "g3": NAMES[6:9], "g4": NAMES[9:]}
    costs = dict.fromkeys(NAMES, 1.0)
    plan = plan_of_groups(measurement, groups, config, origin="edited", summary="Mine.", costs=costs)
    second = review(gradients, measurement, plan, costs=costs, resamples=2).second_opinion
    assert second is not None and second.solver == "exact"
    assert max(len(tasks) for tasks in second.groups) <= 4
    assert any({NAMES[0], NAMES[1]} <= set(tasks) for tasks in second.groups)


def test_a_plan_of_too_noisy_gradients_is_not_to_be_relied_on():
    gradients, measurement, plan = job(8.0)
    assert plan.verdict is not None and plan.verdict.kind == "too_noisy"
    found = review(gradients, measurement, plan, resamples=8)
    assert found.confidence is not None and found.confidence.word == "refuse"
    assert found.second_opinion is None
    assert found.confidence.sentence.startswith("No split is to be relied on: ")
    assert len(found.agreements) == 3


def test_one_group_is_firm_where_it_was_demanded_and_doubted_where_other_data_would_split_it():
    gradients, measurement, demanded = job(1.0, num_groups=1)
    plan = plan_of_groups(measurement, {"g1": NAMES}, GroupingConfig(), origin="edited", summary="Mine.")
    sure, doubted = (review(gradients, measurement, seen, resamples=4).confidence for seen in (demanded, plan))
    assert sure is not None and sure.sentence.startswith("The groups are firm")
    assert doubted is not None and doubted.sentence.endswith("although the plan keeps one group (bootstrap ARI 1.00).")


@pytest.mark.parametrize("num_tasks", [1, 2])
def test_fewer_than_three_tasks_have_nothing_to_resample(num_tasks: int):
    gradients, names = planted([0] * num_tasks, sigma=0.5), NAMES[:num_tasks]
    measurement = measure(gradients, names)
    found = review(gradients, measurement, plan_from(measurement, GroupingConfig()))
    assert (found.confidence, found.second_opinion, found.agreements) == (None, None, [])
    plan = plan_of_groups(measurement, {"g1": names}, GroupingConfig(), origin="edited", summary="Mine.")
    second = review(gradients, measurement, plan).second_opinion
    assert second is not None and second.groups == [names]


def test_a_task_without_a_usable_gradient_is_left_out():
    gradients = planted(THREE_GROUPS, sigma=1.0, num_microbatches=4)
    gradients[:, :, 5] = 0
    measurement = measure(gradients, NAMES)
    for plan in (
        plan_from(measurement, GroupingConfig()),
        plan_of_groups(measurement, TRUE, GroupingConfig(), origin="edited", summary="Mine."),
    ):
        found = review(gradients, measurement, plan, resamples=4)
        assert found.confidence is not None and found.second_opinion is not None
        assert NAMES[5] not in found.confidence.task_names
        assert NAMES[5] not in [task for tasks in found.second_opinion.groups for task in tasks]


def test_without_any_usable_gradient_there_is_nothing_to_say():
    gradients = np.zeros((2, 2, 12, 5))
    measurement = measure(gradients, NAMES)
    found = review(gradients, measurement, plan_from(measurement, GroupingConfig()))
    assert found == Review(confidence=None, second_opinion=None, agreements=[])


def test_the_paper_s_plan_has_no_other_solver():
    gradients, measurement, plan = job(0.5, similarity="cosine")
    assert review(gradients, measurement, plan, resamples=2).second_opinion is None


def test_a_plan_of_other_tasks_is_refused():
    gradients, measurement, _ = job(1.0)
    other: Plan = trivial_plan(["a", "b"], "alone")
    with pytest.raises(ValueError, match=r"The plan is of 2 tasks \(a, b\), the measurement of 12"):
        review(gradients, measurement, other)
