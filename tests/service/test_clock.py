"""One contract for both clocks, and what the fake one can do besides."""

import time

import pytest

from service.clock import Clock, FakeClock, SystemClock

A_DAY = 86_400.0


def pass_time(clock: Clock) -> None:
    if isinstance(clock, FakeClock):
        clock.advance(0.02)
    else:
        time.sleep(0.02)


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["system", "fake"])
def test_both_readings_go_on_together_in_seconds(clock: Clock):
    day, span = clock.time(), clock.monotonic()
    pass_time(clock)
    assert clock.time() > day > 50 * 365 * A_DAY and clock.monotonic() > span
    assert clock.time() - day == pytest.approx(clock.monotonic() - span, abs=5.0)


def test_the_fake_one_stands_still_until_it_is_told():
    clock = FakeClock(1000.0)
    assert (clock.time(), clock.time()) == (1000.0, 1000.0)
    clock.advance(5.0)
    assert (clock.time(), clock.monotonic()) == (1005.0, 5.0)
    with pytest.raises(AssertionError, match="does not go back"):
        clock.advance(-1.0)


def test_a_jump_of_the_time_of_day_passes_no_time():
    clock = FakeClock(1000.0)
    clock.jump(-300.0)
    assert (clock.time(), clock.monotonic()) == (700.0, 0.0)
