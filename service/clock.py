"""The time of day, and spans of time, which nobody can set.  `FakeClock` is turned by hand, for tests."""

import time
from typing import Protocol


class Clock(Protocol):
    """What the coordinator reads the time from."""

    def time(self) -> float:
        """Seconds since 1970; whoever keeps the machine can set it."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back, whatever becomes of the time of day."""
        ...


class SystemClock:
    """This machine's."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class FakeClock:
    """Stands still until it is told to go on."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._time = start
        self._passed = 0.0

    def time(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._passed

    def advance(self, seconds: float) -> None:
        """So much time passes."""
        assert seconds >= 0, f"{seconds} s given; time does not go back: set the time of day with `jump`"
        self._time += seconds
        self._passed += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the time of day forward, or back; no time passes."""
        self._time += seconds
