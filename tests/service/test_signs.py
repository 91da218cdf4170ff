"""Laws of a driver between two steps: it shows that it lives, and it heeds its deadline."""

from pathlib import Path
from typing import Any

import pytest

from service.artifacts import JobFiles
from service.settings import Settings
from service.spec import parse_spec
from service.stages.run import Interrupted, JobRun
from service.states import Desired, JobState
from service.store import Store
from workers.failures import FailureClass

SPEC = parse_spec(
    "{name: office, backbone: {model: demo}, deadline_hours: 1, tasks: [{name: a, source: {kind: demo, task: a}}]}"
)
NOBODY: Any = None


class Attempt:
    def __init__(self, home: Path) -> None:
        self.time = 1_800_000_000.0
        self.store = Store("sqlite://", now=lambda: self.time)
        self.job = self.store.create_job(SPEC)[0].id
        self.store.start_attempt(self.job)
        settings = Settings(home=home, stall_seconds=0.001)
        self.run = JobRun(
            self.job, 1, SPEC, self.store, JobFiles(settings.storage_place, self.job), NOBODY, settings, lambda: False
        )


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path)


def test_looking_at_the_wish_is_a_sign_of_life(attempt: Attempt) -> None:
    assert attempt.store.get_job(attempt.job).seen_at is None
    attempt.run.check()
    seen = attempt.store.get_job(attempt.job).seen_at
    assert seen is not None and seen.timestamp() == attempt.time


def test_signs_are_not_left_with_every_look(attempt: Attempt) -> None:
    attempt.run.settings = attempt.run.settings.model_copy(update={"stall_seconds": 1800.0})
    attempt.run.check()
    first = attempt.store.get_job(attempt.job).seen_at
    attempt.time += 100
    attempt.run.check()
    assert attempt.store.get_job(attempt.job).seen_at == first


def test_an_attempt_ends_at_its_jobs_deadline_and_says_so(attempt: Attempt) -> None:
    attempt.time += 3599
    attempt.run.check()
    attempt.time += 1
    with pytest.raises(Interrupted) as ended:
        attempt.run.check()
    assert (ended.value.to, ended.value.failure) == (JobState.FAILED, FailureClass.TIMEOUT)
    assert "deadline_hours=1" in ended.value.reason
    attempt.store.set_desired(attempt.job, Desired.CANCEL)
    with pytest.raises(Interrupted) as ended:
        attempt.run.check()
    assert ended.value.to == JobState.CANCELLED
