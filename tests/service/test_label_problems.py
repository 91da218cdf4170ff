"""Labels as they come: a job over them is refused in words while it is validated, or trains to finite numbers."""

import csv
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.states import JobState
from workers.failures import FailureClass

Rows = Iterator[tuple[str, str]]
"""Image, label."""


def _each(labels: dict[str, int]) -> Callable[[], Rows]:
    return lambda: ((f"{index % 40}.png", label) for label, count in labels.items() for index in range(count))


REFUSED: dict[str, tuple[Callable[[], Rows], str]] = {
    "one class": (_each({"cat": 8}), "the only class is 'cat'"),
    "no sample": (_each({}), "class"),
    "one sample": (_each({"cat": 8, "dog": 1}), "dog"),
    "the same class twice": (_each({"big_cat": 6, "big cat": 6}), "are both called"),
    "the same class in capitals": (_each({"cat": 6, "CAT": 6}), "are both called"),
    "a class of 2000 characters": (_each({"x" * 2000: 6, "dog": 6}), "Shorten"),
    "a class of blanks": (_each({"cat": 6, " ": 6}), "Give a text"),
}
TRAINED: dict[str, Callable[[], Rows]] = {
    "pictographs": _each({"🐈": 6, "🐕": 6}),
    "many scripts": _each({"猫": 6, "كلب": 6, "κύων": 6}),
    "one class far larger": _each({"cat": 40, "dog": 3}),
    "a class without validation images": _each({"cat": 6, "dog": 2}),
    "ten thousand classes": _each({f"class {number}": 2 for number in range(10_000)}),
}


@pytest.fixture
def run(make_world, make_spec, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):
    """Runs a job over a manifest with these rows: the world and the job."""

    def run_over(rows: Callable[[], Rows], **changes):
        folder = tmp_path / "images"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for number in range(40):
            pixels = rng.integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
        with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label"])
            for number, (image, label) in enumerate(rows()):  # an image of its own for every row
                os.link(folder / image, folder / f"row-{number}.png")
                writer.writerow([f"images/row-{number}.png", label])
        source = {"kind": "manifest", "uri": str(tmp_path / "rows.csv")}
        task = {"name": "odd", "source": source, "split": {"shots": 1, "val_shots": 1, "test_per_class": 1}}
        method = {"kind": "mmap", "num_tokens": 2, "depth": 2, "sharing": "all"}
        world = make_world()
        job = world.submit(make_spec(tasks=[task], method=method, baselines=["zero_shot"], **changes))
        world.attempt(job)
        return world, job

    return run_over


@pytest.mark.parametrize("kind", REFUSED)
def test_labels_that_no_classifier_can_learn_are_refused_before_anything_trains(run, kind: str) -> None:
    rows, message = REFUSED[kind]
    world, job = run(rows)
    found = world.store.get_job(job)
    assert found.state == JobState.FAILED
    assert found.failure in (FailureClass.DATA, FailureClass.USER)
    assert message in (found.reason or ""), found.reason
    states = [event.data["to"] for event in world.store.events(job) if event.kind == "state"]
    assert states == ["QUEUED", "STARTING", "VALIDATING", "FAILED"]


@pytest.mark.parametrize("kind", TRAINED)
def test_odd_labels_train_to_finite_numbers(run, kind: str) -> None:
    world, job = run(TRAINED[kind])
    assert world.store.get_job(job).state == JobState.SUCCEEDED, world.why(job)
    for row in world.store.results(job):
        assert row.score is not None and 0 <= row.score <= 1
        assert row.loss is not None and math.isfinite(row.loss)
    losses = [point.value for point in world.store.metrics(job, name="loss")]
    assert losses and all(loss is not None and math.isfinite(loss) for loss in losses)
    for tensors in world.learned(job).values():
        for content in tensors.values():
            assert np.isfinite(np.frombuffer(content, np.float32)).all()
