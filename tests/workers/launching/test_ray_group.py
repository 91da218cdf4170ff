"""Laws of a group's actor, in this process."""

import pytest

from workers.launching.ray_group import Group


def test_a_try_that_waits_for_its_devices_has_no_signs_of_life_of_the_try_before(make_pass):
    """Or it counts as hung before it has begun."""
    group = Group("job-tiny", 1, "g1", ["art", "photo"])
    group.request_stop()
    assert group.stop_requested() and group.beats()[0] == 1
    with pytest.raises(AssertionError):  # such a work is not for ranks: the try ends before anything of it starts
        group.run_ranks(make_pass({"g1": ("art",), "g2": ("photo",)}, devices=2), "cpu")
    assert group.beats()[0] == 0
    assert not group.stop_requested()
