"""Laws of forecasts: what follows for a whole job from what parts of it took."""

from dataclasses import replace
from typing import Any

import pytest

from service.estimation import VARIES, Sampled, forecast, layouts, out_of_memory
from service.spec import JobSpec, parse_spec
from service.wire_estimate import Forecast
from workers.launching.estimate_work import Tried

NAMES = ("a", "b", "c", "d")
PER_IMAGE, PER_SCORED = 0.01, 0.002
ABOUT = {"began_at": 0.0, "backbone": 1.0, "peak": 1, "available": 2}


def spec_of(**changes: Any) -> JobSpec:
    tasks = [{"name": name, "source": {"kind": "folder", "uri": name}} for name in NAMES]
    short = {"max_steps": 100, "batch_size": 10, "validations": 2}
    given: dict[str, Any] = {"name": "x", "backbone": {"model": "demo"}, "tasks": tasks, "training": short}
    return parse_spec(given | changes)


def told(name: str, **changes: Any) -> dict[str, Any]:
    known = {"name": name, "class_names": ["x", "y"], "num_train": 40, "num_val": 10, "num_test": 50}
    known |= {"num_read": 20, "num_unreadable": 0, "unreadable": []}
    return known | {"list_seconds": 0.1, "read_seconds": 2.0, "again_seconds": 0.5} | changes


def forecast_of(spec: JobSpec, *, workers: int = 1, speed: float = 1.0, **changes: Any) -> Forecast:
    """On a machine whose speed never changes."""
    tasks = tuple(told(name, **changes) for name in NAMES)
    validation = Tried(setup=0.0, tasks=tasks, **ABOUT)
    steps = {"setup": 0.0, "steps": (40 * PER_IMAGE / speed,) * 5, "images": 40}
    profile = Tried(**steps, rest=PER_IMAGE * 80, rest_images=80, signature=100, **ABOUT)
    ways = layouts(spec, tasks, workers, lambda units: True)
    tried = []
    for members in (members for way in ways for members in way[:workers]):
        images = sum(unit.images_per_step for unit in members if unit.num_steps)
        sizes = {unit.id: 1000 * len(unit.tasks) for unit in members}
        one = Tried(setup=0.0, steps=(images * PER_IMAGE / speed,) * 5, images=images, sizes=sizes, **ABOUT)
        tried.append((members, replace(one, rest=PER_SCORED * 100, rest_images=100)))
    no_profile = spec.trivial_sharing is not None
    found = Sampled(validation=validation, profile=None if no_profile else profile, passes=tried, waited=2.0)
    return forecast(spec, found, ways, workers)


def span(found: Forecast, stage: str):
    return next(each.seconds for each in found.stages if each.stage == stage)


def test_on_a_steady_machine_the_interval_is_that_of_the_machine_and_holds_the_truth():
    found = span(forecast_of(spec_of()), "train")
    steps = 100 * 3 * 40 * PER_IMAGE  # the plan, all and alone train on every task; zero-shot trains on none
    scored = (4 * (50 + 10) + 3 * 4 * (50 + 2 * 10) - 0) * PER_SCORED
    reading = 4 * (0.1 + 0.4 * 100 / 20)
    assert found.low == pytest.approx((steps + scored + reading) * VARIES.low)
    assert found.high == pytest.approx((steps + scored + reading) * VARIES.high)


def test_twice_the_workers_take_half_the_time_and_as_many_device_hours():
    one, two = (forecast_of(spec_of(baselines=["alone"]), workers=workers) for workers in (1, 2))
    assert span(two, "train").low < 0.65 * span(one, "train").low
    assert one.device_hours is not None and two.device_hours is not None
    assert two.device_hours.low == pytest.approx(one.device_hours.low, rel=0.2)


def test_a_slower_machine_takes_longer_and_sees_fewer_images():
    fast, slow = (forecast_of(spec_of(), speed=speed) for speed in (2.0, 1.0))
    assert fast.seconds is not None and slow.seconds is not None and fast.seconds.high < slow.seconds.high
    assert fast.groups is not None and slow.groups is not None
    assert fast.groups.images_per_second.low == pytest.approx(2 * slow.groups.images_per_second.low)


def test_a_search_costs_its_trials_and_no_more_than_its_time():
    space = {"space": {"training.lr": {"loguniform": [0.001, 0.1]}}, "num_trials": 8}
    without, searched = forecast_of(spec_of()), forecast_of(spec_of(search=space))
    one = forecast_of(spec_of(search=space | {"num_trials": 1}))
    assert "search" not in [stage.stage for stage in without.stages]
    assert span(searched, "search").low > 6 * span(one, "search").low
    assert span(forecast_of(spec_of(search=space | {"max_seconds": 5})), "search").high == 5


def test_arbitration_is_counted_with_the_groups():
    plain, tested = (
        forecast_of(spec_of(grouping={"arbitrate": arbitrate}, tasks=spec_of().model_dump()["tasks"]))
        for arbitrate in (False, True)
    )
    assert span(tested, "group").low > span(plain, "group").low


def test_a_job_without_a_profile_has_one_layout():
    method = {"kind": "mmap", "sharing": "alone"}
    found = forecast_of(spec_of(method=method))
    assert found.profile is None and "profile" not in [stage.stage for stage in found.stages]


def test_what_the_job_would_be_refused_for_is_named():
    found = forecast_of(spec_of(profile={"microbatches": 64}), num_unreadable=4, unreadable=["x.png"])
    assert len(found.problems) == 8
    assert any("4 of 20 images" in problem for problem in found.problems)
    assert any("microbatches=64" in problem for problem in found.problems)


def test_memory_that_is_not_there_is_a_problem():
    validation = Tried(setup=0.0, tasks=tuple(map(told, NAMES)), **ABOUT)
    found = out_of_memory(spec_of(), validation, 1, "CUDA out of memory.")
    assert not found.memory.fits and found.seconds is None and found.stages == []
    assert found.problems == ["It does not fit: CUDA out of memory."]
