"""Faults happen where and when a plan says, and nowhere else."""

import errno
import subprocess
import sys

import pytest

from workers import faults


@pytest.fixture(autouse=True)
def disarmed():
    yield
    faults.arm("")


def test_a_point_does_nothing_until_a_plan_names_it():
    faults.point("a")
    faults.arm("b:full")
    faults.point("a")
    with pytest.raises(OSError, match="No space") as found:
        faults.point("b")
    assert found.value.errno == errno.ENOSPC


def test_a_fault_happens_at_the_passing_that_was_named_and_once():
    faults.arm("a:io@3, a:memory@4")
    faults.point("a")
    faults.point("a")
    with pytest.raises(OSError):
        faults.point("a")
    with pytest.raises(MemoryError):
        faults.point("a")
    faults.point("a")


def test_a_crash_is_caught_by_nothing_that_catches_exceptions():
    faults.arm("a:crash")
    with pytest.raises(faults.Crash):
        try:
            faults.point("a")
        except Exception:
            pytest.fail("a killed process catches nothing")


def test_a_ledger_makes_a_fault_happen_once_over_all_processes(tmp_path):
    code = f"from workers import faults; from pathlib import Path; faults.arm('a:kill', Path({str(tmp_path)!r}));"
    code += "faults.point('a')"
    ends = [subprocess.run([sys.executable, "-c", code], check=False).returncode for _ in range(2)]
    assert ends == [-9, 0]


@pytest.mark.parametrize("plan", ["a", "a:", ":kill", "a:burn", "a:kill@0", "a:kill@x"])
def test_a_plan_that_is_none_is_refused_in_words(plan):
    with pytest.raises(ValueError, match="expected POINT:ACTION"):
        faults.parse(plan)
