"""What trains in a job: the plan's groups and the baselines, each once."""

from typing import Any

from grouping.plan import trivial_plan
from service.spec import parse_spec
from service.stages.units import TrainUnits, train_units

TASK = {"source": {"kind": "demo", "task": "digits-ink"}}
SIZES = {"a": 40, "b": 10}


def units_of(class_lists: dict[str, tuple[str, ...]] | None = None, **changes: Any) -> TrainUnits:
    tasks = [{**TASK, "name": name} for name in SIZES]
    job = {"name": "two", "backbone": {"model": "demo"}, "tasks": tasks, "training": {"batch_size": 16, "epochs": 2}}
    spec = parse_spec(job | changes)
    return train_units(
        spec,
        trivial_plan(list(SIZES), spec.trivial_sharing or "all"),
        SIZES,
        class_lists or dict.fromkeys(SIZES, ("x",)),
    )


def test_every_unit_that_trains_takes_the_steps_of_the_longest_task_and_zero_shot_takes_none() -> None:
    found = {unit.id: (unit.num_steps, unit.images_per_step) for unit in units_of().units}
    trained = {"g1": (6, 26), "all": (6, 26), "alone-a": (6, 16), "alone-b": (6, 10)}
    assert found == {"zero-shot": (0, 1), **trained}


def test_a_baseline_that_is_the_plan_itself_is_not_trained_twice() -> None:
    alone = units_of(method={"kind": "mmap", "sharing": "alone"})
    assert alone.baselines["alone"] == alone.planned
    assert {unit.id for unit in alone.units} == {"g1", "g2", "zero-shot", "all"}
    together = units_of(method={"kind": "mmap", "sharing": "all"})
    assert together.baselines["all"] == together.planned
    nothing = units_of(method={"kind": "zero_shot"})
    assert nothing.baselines == {"zero_shot": nothing.planned}
    assert [unit.num_steps for unit in nothing.units] == [0]


def test_baselines_keep_every_setting_of_the_method_but_its_sharing() -> None:
    found = units_of(method={"kind": "mmap", "num_tokens": 6, "source_shape": [3, 2], "depth": 2})
    for unit in found.units:
        if unit.kind in ("all", "alone"):
            expected = {"num_tokens": 6, "source_shape": (3, 2), "depth": 2, "sharing": unit.kind}
            assert unit.method.model_dump().items() >= expected.items()


def test_the_baseline_all_is_left_out_where_the_method_needs_equal_classes_and_they_differ() -> None:
    unequal = {"a": ("x", "y"), "b": ("x", "z")}
    needing = ({"kind": "tip_adapter"}, {"kind": "tip_adapter_f"}, {"kind": "coop", "class_specific": True})
    for method in needing:
        assert "all" in units_of(method=method).baselines
        assert set(units_of(unequal, method=method).baselines) == {"zero_shot", "alone"}
    assert "all" in units_of(unequal, method={"kind": "coop"}).baselines


def test_a_unit_counts_the_class_sentences_of_its_tasks() -> None:
    found = {unit.id: unit.texts_per_step for unit in units_of({"a": ("x", "y", "z"), "b": ("x",)}).units}
    assert found == {"g1": 4, "all": 4, "alone-a": 3, "alone-b": 1, "zero-shot": 0}
    assert units_of({"a": (), "b": ("x",)}).units[0].texts_per_step == 16 + 1  # captions, one an image
