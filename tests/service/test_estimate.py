"""Laws of estimates: a dry run of the job itself, of which nothing stays but what it says."""

from collections.abc import Callable
from typing import Any

import pytest

from service.spec import JobSpec
from service.states import JobState
from service.wire_estimate import Forecast
from workers.launching import estimate as trying
from workers.launching.work import PassWork, Work

STAGES = ["validate", "profile", "group", "train", "publish"]


@pytest.fixture
def estimated(make_world: Callable[..., Any]) -> Callable[[JobSpec], tuple[Any, str]]:
    def run(spec: JobSpec) -> tuple[Any, str]:
        world = make_world()
        job, _ = world.store.create_job(spec, purpose="estimate")
        world.attempt(job.id)
        return world, job.id

    return run


def forecast_of(world: Any, job: str) -> Forecast:
    assert world.store.get_job(job).state == JobState.SUCCEEDED, world.why(job)
    return Forecast.model_validate_json((world.folder(job) / "estimate.json").read_text())


def test_an_estimate_tells_memory_speed_time_and_size(estimated, make_spec):
    world, job = estimated(make_spec())
    found = forecast_of(world, job)
    assert found.memory.fits and found.memory.peak_bytes and found.problems == []
    assert [task.task for task in found.tasks] == ["art", "clipart", "photo"]
    assert [stage.stage for stage in found.stages] == STAGES
    for speed in (found.profile, found.groups):
        assert speed is not None and 0 < speed.images_per_second.low <= speed.images_per_second.high
    for interval in (found.seconds, found.device_hours, found.bundle_bytes, *(stage.seconds for stage in found.stages)):
        assert interval is not None and 0 <= interval.low <= interval.high
    assert found.seconds is not None and found.seconds.low > 0


def test_an_estimate_leaves_nothing_else(estimated, make_spec):
    world, job = estimated(make_spec())
    left = {path.relative_to(world.folder(job)).as_posix() for path in world.folder(job).rglob("*") if path.is_file()}
    assert {path for path in left if not path.startswith("logs/")} == {"estimate.json"}
    assert world.store.groups(job) == [] and world.store.plans(job) == [] and world.store.results(job) == []
    assert not (world.settings.home / "cache").exists()


def test_a_dead_estimate_is_gone_on_with_and_a_written_one_is_not_made_again(estimated, make_spec):
    world, job = estimated(make_spec())
    told = world.files(job).read_text("estimate.json")
    again, _ = world.store.create_job(make_spec(), purpose="estimate")
    world.files(again.id).write_text("estimate.json", told)
    assert world.attempt(again.id) == JobState.SUCCEEDED
    assert world.files(again.id).read_text("estimate.json") == told


@pytest.mark.parametrize("sharing", ["alone", "all"])
def test_a_job_without_a_profile_is_told_none(estimated, make_spec, sharing):
    method = {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "depth": 2, "sharing": sharing}
    world, job = estimated(make_spec(method=method))
    found = forecast_of(world, job)
    assert found.profile is None and [stage.stage for stage in found.stages] == ["validate", "train", "publish"]


def test_what_would_fail_the_job_fails_its_estimate_in_the_same_words(estimated, make_spec, make_world):
    method = {"kind": "mmap", "num_tokens": 20, "source_shape": [2, 2], "depth": 2}
    spec = make_spec(method=method)
    world, job = estimated(spec)
    real = world.submit(spec)
    assert world.attempt(real) == JobState.FAILED
    assert world.store.get_job(job).state == JobState.FAILED
    assert world.why(job) == world.why(real)


def test_a_batch_that_does_not_fit_is_an_answer(estimated, make_spec, monkeypatch):
    def full(small: Work, data: Any) -> dict:
        if isinstance(small, PassWork):
            raise MemoryError("no room for it")
        return counts(small, data)

    counts = trying._counts
    monkeypatch.setattr(trying, "_counts", full)
    world, job = estimated(make_spec())
    found = forecast_of(world, job)
    assert not found.memory.fits and "no room for it" in found.memory.sentence
    assert found.problems == [found.memory.sentence] and found.seconds is None
