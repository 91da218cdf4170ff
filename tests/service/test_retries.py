"""Laws of trying again: every class has its budget, waits double and jitter, and poison is found out."""

import pytest

from service.retries import BUDGETS, MAX_WAIT_SECONDS, Again, Failed, GivenUp, backoff_seconds, what_next
from workers.failures import FailureClass as Class


def tries(failure: Class, *, moving: bool = True, limit: int = 40) -> int:
    """How often something is tried that fails every time in the same way."""
    failed: list[Failed] = []
    for number in range(1, limit + 1):
        failed.append(Failed(failure, f"step-{number}" if moving else ""))
        if isinstance(what_next(failed, base_seconds=1.0), GivenUp):
            return number
    return limit


@pytest.mark.parametrize("failure", list(Class))
def test_every_class_is_tried_as_often_as_its_budget_allows(failure):
    expected = 40 if failure is Class.PREEMPTION else BUDGETS.get(failure, 0) + 1
    assert tries(failure) == expected


def test_users_data_and_full_disks_are_never_tried_blindly():
    for failure in (Class.USER, Class.DATA, Class.STORAGE, Class.TIMEOUT):
        assert what_next([Failed(failure, "")], base_seconds=1.0) == GivenUp("")


def test_three_deaths_without_a_new_checkpoint_are_poison():
    assert tries(Class.INFRASTRUCTURE, moving=False) == 3
    last = what_next([Failed(Class.INFRASTRUCTURE, "step-7")] * 3, base_seconds=1.0)
    assert isinstance(last, GivenUp) and "3 times without a new checkpoint" in last.why


def test_a_checkpoint_between_two_deaths_takes_the_blame_away():
    died = [Failed(Class.INFRASTRUCTURE, at) for at in ("", "", "step-1", "step-1")]
    assert isinstance(what_next(died, base_seconds=1.0), Again)


def test_preemptions_count_for_nothing():
    taken = [Failed(Class.PREEMPTION, "")] * 100
    assert what_next(taken, base_seconds=1.0) == Again(0.0, 1)
    assert isinstance(what_next([*taken, Failed(Class.INFRASTRUCTURE, "")], base_seconds=1.0), Again)


def test_out_of_memory_halves_the_batch_once():
    first = what_next([Failed(Class.OUT_OF_MEMORY, "")], base_seconds=1.0)
    assert isinstance(first, Again) and first.microbatches == 2
    assert isinstance(what_next([Failed(Class.OUT_OF_MEMORY, "")] * 2, microbatches=2, base_seconds=1.0), GivenUp)


def test_out_of_memory_where_batches_cannot_be_split_is_final_and_says_what_to_do():
    only = what_next([Failed(Class.OUT_OF_MEMORY, "")], can_split=False, base_seconds=1.0)
    assert isinstance(only, GivenUp) and "training.batch_size" in only.why


def test_out_of_memory_without_batches_is_tried_again_as_it_is_once():
    first = what_next([Failed(Class.OUT_OF_MEMORY, "")], has_batches=False, base_seconds=1.0)
    assert isinstance(first, Again) and first.microbatches == 1
    assert isinstance(what_next([Failed(Class.OUT_OF_MEMORY, "")] * 2, has_batches=False, base_seconds=1.0), GivenUp)


def test_waits_lie_between_nothing_and_a_bound_that_doubles_up_to_six_minutes():
    bounds = [backoff_seconds(times, 10.0, chance=lambda: 1.0) for times in range(1, 9)]
    assert bounds == [10, 20, 40, 80, 160, 320, 360, 360] and bounds[-1] == MAX_WAIT_SECONDS
    assert backoff_seconds(10**6, 10.0, chance=lambda: 1.0) == MAX_WAIT_SECONDS
    assert backoff_seconds(3, 10.0, chance=lambda: 0.0) == 0.0
    drawn = {backoff_seconds(3, 10.0) for _ in range(50)}
    assert len(drawn) > 40 and all(0 <= wait < 40 for wait in drawn)
