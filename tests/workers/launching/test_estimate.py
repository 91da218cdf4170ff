"""Laws of works in small: they use the real code, leave nothing behind and say what they took."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers.failures import DataError
from workers.launching.estimate_work import EstimateWork, Tried
from workers.launching.execute import execute
from workers.launching.work import GroupUnit, PassWork, ValidateWork, Work
from workers.methods.config import LinearProbeConfig, TipAdapterConfig, ZeroShotConfig
from workers.training.train import Stopped

SAMPLE = {"train": 6, "val": 2, "test": 3}


def small(work: Any, **changes: Any) -> EstimateWork:
    shared = {name: getattr(work, name) for name in ("job", "attempt", "backbone", "tasks", "roots", "cache_dir")}
    unit = GroupUnit("estimate", "estimate", tuple(task.name for task in work.tasks), ZeroShotConfig())
    given: dict[str, Any] = shared | {"groups": (unit,), "of": work, "sample": SAMPLE, "num_steps": 5} | changes
    return EstimateWork(**given)


def run(work: Work, should_stop: Callable[[], bool] = lambda: False) -> Tried:
    quiet: Any = lambda told: None  # noqa: E731
    value = execute(work, clip_cache={}, device="cpu", should_stop=should_stop, report=quiet, log=quiet)
    return Tried.of_json(value)


def test_a_pass_in_small_trains_evaluates_and_leaves_nothing(make_pass, tmp_path: Path):
    work: PassWork = make_pass({"g1": ("art", "photo"), "g2": ("clipart",)}, max_steps=100)
    tried = run(small(work))
    assert len(tried.steps) == 4 and all(seconds > 0 for seconds in tried.steps)
    assert tried.setup > 0 and tried.rest > 0 and tried.images == 3 * 4
    assert tried.rest_images == 3 * (SAMPLE["val"] + SAMPLE["test"])
    assert set(tried.sizes) == {"g1", "g2"} and tried.sizes["g1"] > tried.sizes["g2"] > 0
    assert tried.peak > 0 and tried.available > 0
    assert not any(tmp_path.iterdir())


def test_a_profile_in_small_takes_signatures(make_profile):
    tried = run(small(make_profile("job-estimate")[0]))
    assert len(tried.steps) == 3 and tried.rest > 0 and tried.rest_images > 0 and tried.signature > 0


def test_a_validation_in_small_counts_what_it_did_not_read(make_pass):
    work: PassWork = make_pass({"g1": ("art", "photo")})
    same = {
        name: getattr(work, name) for name in ("job", "attempt", "backbone", "tasks", "groups", "roots", "cache_dir")
    }
    tried = run(small(ValidateWork(**same)))
    told = {task["name"]: task for task in tried.tasks}
    assert set(told) == {"art", "photo"}
    art = told["art"]
    assert (art["num_train"], art["num_val"], art["num_test"]) == (12, 3, 9)
    assert art["num_read"] == 11 and art["num_unreadable"] == 0
    assert min(art[f"{what}_seconds"] for what in ("list", "again")) > 0


@pytest.mark.parametrize("method", [ZeroShotConfig(), LinearProbeConfig(), TipAdapterConfig()])
def test_methods_on_features_can_be_tried(make_pass, method):
    work: PassWork = make_pass({"g1": ("art",)})
    tried = run(small(replace(work, groups=tuple(replace(unit, method=method) for unit in work.groups))))
    assert tried.rest > 0 and bool(tried.steps) == method.trains


def test_a_stop_is_heard_and_data_at_fault_are_named(make_pass, tmp_path: Path):
    work = make_pass({"g1": ("art",)})
    with pytest.raises(Stopped):
        run(small(work), should_stop=lambda: True)
    empty = work.tasks[0].source.model_copy(update={"uri": str(tmp_path / "nowhere")})
    lost = tuple(task.model_copy(update={"source": empty}) for task in work.tasks)
    with pytest.raises(DataError):
        run(small(replace(work, tasks=lost)))
