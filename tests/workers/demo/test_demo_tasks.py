"""Laws of the demo tasks: the same bytes for ever, and no picture in two places."""

import hashlib
import io
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from workers.demo.scenes import draw_pool
from workers.demo.tasks import (
    DEMO_TASKS,
    TEST_PER_CLASS,
    TRAIN_PER_CLASS,
    VAL_PER_CLASS,
    demo_listing,
    digit_partition,
    families,
)


@cache
def digests(task: str) -> dict[str, str]:
    return {item.key: hashlib.sha256(item.read()).hexdigest() for item in demo_listing(task).items}


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_same_seed_same_bytes(task: str) -> None:
    again = {item.key: hashlib.sha256(item.read()).hexdigest() for item in demo_listing(task).items[::37]}
    assert again == {key: digests(task)[key] for key in again}


def test_no_picture_is_in_two_tasks_or_in_two_splits() -> None:
    seen = Counter(digest for task in DEMO_TASKS for digest in digests(task).values())
    assert max(seen.values()) == 1
    assert len(seen) == sum(len(task.class_names) for task in DEMO_TASKS.values()) * 58


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_every_class_has_its_shots_in_every_split(task: str) -> None:
    listing = demo_listing(task)
    counts = Counter((item.label, item.split) for item in listing.items)
    wanted = {"train": TRAIN_PER_CLASS, "val": VAL_PER_CLASS, "test": TEST_PER_CLASS}
    assert counts == {(k, part): n for k in range(len(listing.class_names)) for part, n in wanted.items()}
    assert [item.key for item in listing.items] == sorted({item.key for item in listing.items})


def test_scikit_learns_digits_are_partitioned_among_the_digit_tasks() -> None:
    rows = [row for parts in digit_partition().values() for part in parts for row in part]
    assert len(rows) == len(set(rows)) == 3 * 10 * 58
    assert set(digit_partition()) == {name for name, family in families().items() if family == "digits"}


def test_there_are_three_families_of_three_that_share_no_label_set_and_each_lie_once_on_patches() -> None:
    members = defaultdict(list)
    for name, family in families().items():
        members[family].append(DEMO_TASKS[name])
    assert [len(tasks) for tasks in members.values()] == [3, 3, 3]
    for tasks in members.values():
        assert len({task.class_names for task in tasks}) == 3
        assert sum(task.look.background == "patches" for task in tasks) == 1


def test_class_sentences_fit_the_context_and_differ() -> None:
    for task in DEMO_TASKS.values():
        sentences = [task.template.format(name) for name in task.class_names]
        assert len(set(sentences)) == len(task.subjects) == len(sentences)


def test_pictures_are_32_pixel_colour_images() -> None:
    for task in DEMO_TASKS:
        with Image.open(io.BytesIO(demo_listing(task).items[0].read())) as image:
            assert (image.size, image.mode, image.format) == ((32, 32), "RGB", "PNG")


def test_pretraining_never_uses_a_background_of_the_noise_tasks_nor_their_pictures() -> None:
    pool = draw_pool(500, seed=0)
    drawn = {picture.transpose(1, 2, 0).tobytes() for picture in pool.pictures}
    items = [item for task in DEMO_TASKS for item in demo_listing(task).items[::29]]
    assert not drawn & {np.asarray(Image.open(io.BytesIO(item.read()))).tobytes() for item in items}


def test_an_unknown_task_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"'digits' is not known; expected one of digits-ink, .*textures-noise"):
        demo_listing("digits")


def test_the_example_job_words_its_templates_as_the_demo_world_does() -> None:
    job = yaml.safe_load((Path(__file__).parents[3] / "examples" / "demo.yaml").read_text())
    assert {task["name"]: task["template"] for task in job["tasks"]} == {n: t.template for n, t in DEMO_TASKS.items()}
