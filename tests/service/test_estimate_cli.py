"""`cohort estimate`, and the clients under it: they wait for the dry run and tell what it found."""

import threading
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner

from service.artifacts import JobFiles
from service.cli import app
from service.client import Cohort
from service.states import JobState
from service.store import Store
from service.views import Views
from service.wire_estimate import Forecast, Interval, Memory, Speed, StageForecast, TaskSample
from tests.service.conftest import LiveService

WALK = (JobState.VALIDATING, JobState.PROFILING, JobState.GROUPING, JobState.TRAINING, JobState.PUBLISHING)
SPEED = Speed(
    seconds_per_step=Interval(low=0.5, high=1.0),
    images_per_step=Interval(low=100, high=100),
    images_per_second=Interval(low=100, high=200),
)


def forecast(*problems: str) -> Forecast:
    memory = Memory(of="device", peak_bytes=1, available_bytes=2, fits=True, sentence="It fits.")
    bad = {"num_train": 9, "num_val": 0, "num_test": 9, "num_read": 9, "num_unreadable": 1, "unreadable": ["x.png"]}
    span = Interval(low=3600, high=9000)
    return Forecast(
        tasks=[TaskSample(task="art", **bad)],
        problems=list(problems),
        memory=memory,
        profile=SPEED,
        groups=SPEED,
        workers=2,
        stages=[StageForecast(stage="train", seconds=span, device_seconds=span)],
        seconds=span,
        device_hours=Interval(low=2, high=5),
        bundle_bytes=Interval(low=1000, high=2000),
        assumptions=["Nothing fails."],
    )


@pytest.fixture
def play(live_service: LiveService) -> Iterator[Callable[[Forecast | None], None]]:
    """`play(forecast)`: a driver that ends the next estimate with that forecast; without one it fails."""
    threads, over = [], threading.Event()

    def drive(found: Forecast | None) -> None:
        store: Store = live_service.store
        while not (jobs := store.list_jobs(purpose="estimate", state=JobState.QUEUED)[0]):
            if over.wait(0.01):
                return
        attempt = store.start_attempt(jobs[0].id)
        if found is None:
            store.move(jobs[0].id, JobState.FAILED, attempt=attempt, reason="Task 'a': no image.")
            return
        files: JobFiles = Views(store, live_service.control_plane.settings).files(jobs[0].id)
        files.write_text("estimate.json", found.model_dump_json())
        for state in (*WALK, JobState.SUCCEEDED):
            store.move(jobs[0].id, state, attempt=attempt)

    def start(found: Forecast | None) -> None:
        threads.append(threading.Thread(target=drive, args=(found,)))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()


def run(live_service: LiveService, *more: str) -> tuple[int, str]:
    given = ["--url", live_service.url, "--key", live_service.key, "estimate", str(live_service.spec), *more]
    done = CliRunner().invoke(app, given)
    return done.exit_code, done.output


def test_an_estimate_is_told_in_words(live_service: LiveService, play) -> None:
    play(forecast())
    code, told = run(live_service)
    assert code == 0, told
    for part in (
        "It fits.",
        "60 min to 2.5 h",
        "2 to 5 device-hours",
        "100 to 200 images/s",
        "1 to 2 kB",
        "art: x.png",
    ):
        assert part in told


def test_a_problem_ends_the_command_with_1(live_service: LiveService, play) -> None:
    play(forecast("It does not fit: no memory."))
    code, told = run(live_service)
    assert code == 1 and "PROBLEM   It does not fit: no memory." in told


def test_a_job_that_would_fail_is_told_why(live_service: LiveService, play) -> None:
    play(None)
    code, told = run(live_service)
    assert code == 1 and "FAILED. Task 'a': no image." in told


def test_waiting_too_long_for_an_estimate_says_where_it_stands(live_service: LiveService) -> None:
    with Cohort(live_service.url, live_service.key) as client:
        asked = client.estimate(live_service.spec)
        with pytest.raises(TimeoutError, match="is QUEUED after 0 s"):
            client.wait_for_estimate(asked.id, timeout=0)
